//! As much XML as object stores use in answers.

/// The contents of all elements of a name, not nested in one of the same name.
pub fn elements<'a>(xml: &'a str, name: &str) -> Vec<&'a str> {
    let (begin, end) = (format!("<{name}>"), format!("</{name}>"));
    xml.split(&begin)
        .skip(1)
        .filter_map(|rest| rest.split_once(&end))
        .map(|(content, _)| content)
        .collect()
}

/// The content of the first element of a name, if it is not empty.
pub fn element(xml: &str, name: &str) -> Option<String> {
    let found = elements(xml, name).first().map(|text| unescaped(text));
    found.filter(|text| !text.is_empty())
}

/// Text escaped for XML.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// Ends [`escaped`].
pub fn unescaped(text: &str) -> String {
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&apos;", "'")
        .replace("&amp;", "&")
}

/// A name escaped for the path of a URL; slashes stay.
pub fn encoded_path(name: &str) -> String {
    encoded(name, b"-_.~/")
}

/// A value escaped for the query of a URL.
pub fn encoded_value(value: &str) -> String {
    encoded(value, b"-_.~")
}

fn encoded(text: &str, kept: &[u8]) -> String {
    let encode = |byte: u8| match byte {
        _ if byte.is_ascii_alphanumeric() || kept.contains(&byte) => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}
