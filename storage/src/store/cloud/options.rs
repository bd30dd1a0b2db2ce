//! A repository's bucket options, parsed.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;

use crate::error::StoreError;
use crate::store::{Secrets, StoreKind, StoreSettings};

/// Longer objects are written in parts, unless `storage-upload-chunk-size` says otherwise. Shorter ones are one PUT.
const UPLOAD_CHUNK: u64 = 32 << 20;
/// The shortest part that S3 takes.
const SHORTEST_CHUNK: u64 = 5 << 20;
/// A request is given up when no byte has moved for this time.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The options that all types of bucket share.
#[derive(Clone, Debug)]
pub struct Options {
    pub kind: StoreKind,
    /// The path before the names of all objects.
    pub prefix: String,
    /// The server's address, `SCHEME://HOST[:PORT]`, without bucket or account.
    pub endpoint: Endpoint,
    /// The host and port to connect to instead.
    pub connect_to: Option<(String, u16)>,
    pub ca_file: Option<PathBuf>,
    pub ca_path: Option<PathBuf>,
    pub verify_tls: bool,
    pub timeout: Duration,
    pub upload_chunk: usize,
    pub may_delete: bool,
    pub lock: Option<Lock>,
    pub tags: Vec<(String, String)>,
}

/// Object lock: no credentials can delete an object before its period has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    /// Whether not even an administrator may shorten the period.
    pub compliance: bool,
    /// The period, from the moment of writing.
    pub period: Duration,
}

/// A server's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub scheme: &'static str,
    /// `HOST[:PORT]`.
    pub authority: String,
}

impl Endpoint {
    /// Reads `[SCHEME://]HOST[:PORT]`; the scheme is `https` if none is given.
    fn parse(option: &str, text: &str) -> Result<Self, StoreError> {
        let (scheme, authority) = match text.split_once("://") {
            Some(("https", rest)) => ("https", rest),
            Some(("http", rest)) => ("http", rest),
            Some((scheme, _)) => return Err(unusable(option, format!("'{scheme}' is neither http nor https"))),
            None => ("https", text),
        };
        let authority = authority.trim_end_matches('/');
        let endpoint = Self {
            scheme,
            authority: authority.to_owned(),
        };
        if authority.is_empty() || authority.contains(['/', '?', '#', '@', ' ']) || endpoint.url().is_none() {
            return Err(unusable(option, format!("'{text}' is no HOST[:PORT]")));
        }
        Ok(endpoint)
    }

    /// The address as a URL. A text that does not parse would make `object_store` panic, and end the node.
    fn url(&self) -> Option<Url> {
        Url::parse(&self.to_string()).ok()
    }

    /// The host, without a port.
    pub fn host(&self) -> &str {
        match self.authority.rsplit_once(':') {
            // An IPv6 address has colons of its own.
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => &self.authority,
        }
    }

    /// The host `NAME.HOST[:PORT]`, for a bucket or account that is named in the host. `option` is the option that
    /// gives `name`; `style` is the option that puts the name into the path instead.
    pub fn below(&self, option: &str, name: &str, style: &str) -> Result<Self, StoreError> {
        let below = Self {
            scheme: self.scheme,
            authority: format!("{name}.{}", self.authority),
        };
        // No name can stand before an IP address: the result is no URL.
        match below.url() {
            Some(_) => Ok(below),
            None => {
                let why = format!(
                    "the name '{name}' cannot be a part of the host name before {}; set {style}=path",
                    self.authority
                );
                Err(unusable(option, why))
            }
        }
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}://{}", self.scheme, self.authority)
    }
}

pub fn unusable(option: &str, why: impl Into<String>) -> StoreError {
    StoreError::Unusable {
        what: option.to_owned(),
        source: why.into().into(),
    }
}

/// A required option.
pub fn required<'a>(settings: &'a StoreSettings, option: &str) -> Result<&'a str, StoreError> {
    settings.get(option).ok_or_else(|| unusable(option, "it is not set"))
}

/// A required secret.
pub fn required_secret<'a>(secrets: &'a Secrets, option: &str) -> Result<&'a str, StoreError> {
    secret(secrets, option).ok_or_else(|| unusable(option, "it is not set"))
}

/// A secret, if it is set.
pub fn secret<'a>(secrets: &'a Secrets, option: &str) -> Option<&'a str> {
    secrets
        .get(option)
        .map(|secret| secret.expose().trim())
        .filter(|text| !text.is_empty())
}

/// Whether buckets are named in the path instead of the host.
pub fn path_style(settings: &StoreSettings, option: &str) -> bool {
    settings.get(option) == Some("path")
}

impl Options {
    pub fn read(kind: StoreKind, settings: &StoreSettings) -> Result<Self, StoreError> {
        let endpoint = endpoint(kind, settings)?;
        let default_port = if endpoint.scheme == "http" { 80 } else { 443 };
        let port = number::<u16>(settings, "storage-port")?;
        let connect_to = match settings.get("storage-host") {
            Some(host) => Some((host.to_owned(), port.unwrap_or(default_port))),
            None => port.map(|port| (endpoint.host().to_owned(), port)),
        };
        Ok(Self {
            kind,
            prefix: settings.path_in_bucket().to_owned(),
            endpoint,
            connect_to,
            ca_file: settings.get("storage-ca-file").map(PathBuf::from),
            ca_path: settings.get("storage-ca-path").map(PathBuf::from),
            verify_tls: settings.get("storage-verify-tls") != Some("n"),
            timeout: milliseconds(settings, "storage-timeout")?.unwrap_or(TIMEOUT),
            upload_chunk: upload_chunk(settings)?,
            may_delete: settings.get("delete") != Some("n"),
            lock: lock(settings)?,
            tags: tags(kind, settings)?,
        })
    }
}

fn endpoint(kind: StoreKind, settings: &StoreSettings) -> Result<Endpoint, StoreError> {
    let (option, usual) = match kind {
        StoreKind::S3 => ("s3-endpoint", None),
        StoreKind::Azure => ("azure-endpoint", Some("blob.core.windows.net")),
        StoreKind::Gcs => ("gcs-endpoint", Some("storage.googleapis.com")),
        StoreKind::Posix => return Err(unusable("type", "a directory has no endpoint")),
    };
    match settings.get(option).or(usual) {
        Some(text) => Endpoint::parse(option, text),
        None => {
            let region = required(settings, "s3-region")?;
            Endpoint::parse(option, &format!("s3.{region}.amazonaws.com"))
        }
    }
}

fn number<T: std::str::FromStr>(settings: &StoreSettings, option: &str) -> Result<Option<T>, StoreError> {
    let text = settings.get(option);
    text.map(|text| {
        text.parse()
            .map_err(|_| unusable(option, format!("'{text}' is no number")))
    })
    .transpose()
}

/// Durations are written `NUMBERms` by the configuration.
fn milliseconds(settings: &StoreSettings, option: &str) -> Result<Option<Duration>, StoreError> {
    let text = settings.get(option);
    text.map(|text| {
        let number = text.strip_suffix("ms").and_then(|number| number.parse().ok());
        number
            .map(Duration::from_millis)
            .ok_or_else(|| unusable(option, format!("'{text}' is no duration")))
    })
    .transpose()
}

fn upload_chunk(settings: &StoreSettings) -> Result<usize, StoreError> {
    let option = "storage-upload-chunk-size";
    let bytes = number::<u64>(settings, option)?.unwrap_or(UPLOAD_CHUNK);
    if bytes < SHORTEST_CHUNK {
        return Err(unusable(option, "no part of an upload may be shorter than 5MiB"));
    }
    usize::try_from(bytes).map_err(|error| unusable(option, error.to_string()))
}

fn lock(settings: &StoreSettings) -> Result<Option<Lock>, StoreError> {
    let compliance = match settings.get("object-lock") {
        None | Some("none") => return Ok(None),
        Some("governance") => false,
        Some("compliance") => true,
        Some(other) => {
            return Err(unusable(
                "object-lock",
                format!("'{other}' is not a mode of object lock: none, governance or compliance"),
            ));
        }
    };
    let option = "object-lock-period";
    let period = milliseconds(settings, option)?.filter(|period| !period.is_zero());
    let period = period.ok_or_else(|| {
        unusable(
            option,
            "object-lock needs this option: the time for which objects are kept",
        )
    })?;
    Ok(Some(Lock { compliance, period }))
}

/// `KEY=VALUE,…`, as the configuration writes a map.
fn tags(kind: StoreKind, settings: &StoreSettings) -> Result<Vec<(String, String)>, StoreError> {
    let text = settings.get("storage-tag").unwrap_or("");
    if kind == StoreKind::Gcs && !text.is_empty() {
        return Err(unusable("storage-tag", "Google Cloud Storage has no tags of objects"));
    }
    let tag = |pair: &str| match pair.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(unusable("storage-tag", format!("'{pair}' is no KEY=VALUE"))),
    };
    text.split(',').filter(|pair| !pair.is_empty()).map(tag).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(options: &[(&str, &str)]) -> StoreSettings {
        StoreSettings {
            definition: options
                .iter()
                .map(|(key, value)| ((*key).into(), (*value).into()))
                .collect(),
            ..StoreSettings::default()
        }
    }

    #[test]
    fn endpoints_are_encrypted_unless_it_is_said_otherwise() {
        let read = |text: &str| Endpoint::parse("s3-endpoint", text).map(|endpoint| endpoint.to_string());
        assert_eq!(read("s3.example.com").unwrap(), "https://s3.example.com");
        assert_eq!(read("http://127.0.0.1:9000/").unwrap(), "http://127.0.0.1:9000");
        for wrong in [
            "",
            "ftp://x",
            "host/path",
            "user@host",
            "127.0.0.1:99999",
            "host:port",
            "[::1",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Endpoint::parse("o", "[::1]:90").unwrap().host(), "[::1]");
        let below = |text: &str| {
            let endpoint = Endpoint::parse("s3-endpoint", text)?;
            endpoint.below("s3-bucket", "c", "s3-uri-style")
        };
        assert_eq!(below("a.b:90").unwrap().to_string(), "https://c.a.b:90");
        for address in ["http://127.0.0.1:9000", "http://[::1]:9000"] {
            let error = below(address).unwrap_err();
            let why = std::error::Error::source(&error).unwrap().to_string();
            assert!(why.contains("s3-uri-style=path"), "{why}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let read = |options: &[(&str, &str)]| {
            let settings = settings(options);
            Options::read(StoreKind::S3, &settings).map_err(|error| error.to_string())
        };
        assert!(read(&[]).unwrap_err().contains("s3-region"));
        let locked = [("s3-region", "eu-1"), ("object-lock", "governance")];
        assert!(read(&locked).unwrap_err().contains("object-lock-period"));
        let good = [("s3-region", "eu-1"), ("path", "/a/b/"), ("storage-tag", "a=b,c=d")];
        let options = read(&good).unwrap();
        assert_eq!(options.endpoint.to_string(), "https://s3.eu-1.amazonaws.com");
        assert_eq!(options.prefix, "a/b");
        assert_eq!(options.tags.len(), 2);
        assert!(options.may_delete && options.verify_tls && options.lock.is_none());
    }
}
