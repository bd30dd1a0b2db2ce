use super::*;

fn read(text: &str) -> Head {
    Head::read(&mut text.as_bytes()).unwrap().expect("a head")
}

fn content(text: &str, framing: Framing) -> io::Result<(String, String)> {
    let (mut wire, mut content) = (Vec::new(), Vec::new());
    pass_body(&mut text.as_bytes(), framing, |piece| {
        wire.extend_from_slice(piece.wire);
        content.extend_from_slice(piece.content);
        Ok(())
    })?;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ok((text(wire), text(content)))
}

#[test]
fn a_head_is_kept_as_it_came() {
    let text = "PUT /b/k%20?x=1 HTTP/1.1\r\nHOST:  a:1 \r\nContent-length: 5\r\nX: 1, close\r\n\r\n";
    let head = read(text);
    assert_eq!(head.wire(), text.as_bytes());
    assert_eq!((head.method(), head.target()), ("PUT", "/b/k%20?x=1"));
    assert_eq!(head.header("host"), Some("a:1"));
    assert!(head.header_has("x", "close") && head.keeps_alive());
    assert_eq!(head.request_framing().unwrap(), Framing::Length(5));
    let changed = head.with_header("content-length", "7");
    assert_eq!(
        changed.wire(),
        text.replace("Content-length: 5", "content-length: 7").as_bytes()
    );
    assert_eq!(changed.header("content-length"), Some("7"));
}

#[test]
fn the_end_of_a_connection_is_no_head_and_half_a_head_is_an_error() {
    assert_eq!(Head::read(&mut "".as_bytes()).unwrap(), None);
    assert!(Head::read(&mut "GET / HTTP/1.1\r\nHost: a".as_bytes()).is_err());
    assert!(Head::read(&mut "hello\r\n\r\n".as_bytes()).is_err());
}

#[test]
fn responses_tell_their_length_in_all_ways() {
    let framing = |text: &str, method| read(text).response_framing(method).unwrap();
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n";
    assert_eq!(framing(ok, "GET"), Framing::Length(9));
    assert_eq!(framing(ok, "HEAD"), Framing::Length(0));
    assert_eq!(framing("HTTP/1.1 204 No\r\n\r\n", "GET"), Framing::Length(0));
    assert_eq!(framing("HTTP/1.0 200 OK\r\n\r\n", "GET"), Framing::UntilClose);
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(framing(chunked, "GET"), Framing::Chunked);
}

#[test]
fn bodies_are_passed_as_they_came() {
    assert_eq!(
        content("hello world", Framing::Length(5)).unwrap(),
        ("hello".into(), "hello".into())
    );
    assert!(content("hello", Framing::Length(6)).is_err());
    let chunked = "5;a=b\r\nhello\r\n6\r\n world\r\n0\r\nTrailer: 1\r\n\r\n";
    assert_eq!(
        content(&format!("{chunked}next"), Framing::Chunked).unwrap(),
        (chunked.to_owned(), "hello world".into())
    );
    assert!(content("5\r\nhel", Framing::Chunked).is_err());
    assert!(content("five\r\n", Framing::Chunked).is_err());
    assert_eq!(content("all", Framing::UntilClose).unwrap().1, "all");
}
