//! Authentication of clients.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use pgmesh_chaos::http::{Head, Request, Response};
use ring::signature::{KeyPair, RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use serde_json::{Value, json};

use super::answer::Failure;
use super::{call, date};

/// A private key that is valid for this server only.
const KEY: &str = include_str!("service-account.pem");
pub const KEY_ID: &str = "5d0c1f3a7b9e2468ace013579bdf02468ace1357";
const EMAIL: &str = "backup@tests.iam.gserviceaccount.com";

/// The path that gives a token for an assertion that the key has signed (RFC 7523).
pub const TOKEN_PATH: &str = "/oauth2/token";
/// The path that gives a token to a machine of the cloud.
pub const METADATA_PATH: &str = "/computeMetadata/v1/instance/service-accounts/default/token";
const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const SCOPES: [&str; 3] = [
    "https://www.googleapis.com/auth/cloud-platform",
    "https://www.googleapis.com/auth/devstorage.read_write",
    "https://www.googleapis.com/auth/devstorage.full_control",
];
/// The longest validity of an assertion, and the tolerated difference of clocks, in seconds.
const LONGEST: i64 = 3600;
const SKEW: i64 = 300;

/// The valid tokens, and whether the service account's key is valid.
#[derive(Debug)]
pub struct Identities {
    tokens: HashMap<String, Instant>,
    pub lifetime: Duration,
    pub trusts_key: bool,
    pub issued: usize,
    number: u64,
}

impl Default for Identities {
    fn default() -> Self {
        Self {
            tokens: HashMap::new(),
            lifetime: Duration::from_secs(3600),
            trusts_key: true,
            issued: 0,
            number: 0,
        }
    }
}

/// A key file in the form that the console of Cloud Storage hands out.
pub fn key_file(address: SocketAddr, key_id: &str) -> String {
    let file = json!({
        "type": "service_account",
        "project_id": "tests",
        "private_key_id": key_id,
        "private_key": KEY,
        "client_email": EMAIL,
        "client_id": "100000000000000000001",
        "token_uri": format!("http://{address}{TOKEN_PATH}"),
    });
    file.to_string()
}

impl Identities {
    pub fn issue(&mut self, lifetime: Duration) -> String {
        self.number += 1;
        let token = format!(
            "ya29.{:032x}",
            u128::from(self.number) << 64 | u128::from(std::process::id())
        );
        self.tokens.insert(token.clone(), Instant::now() + lifetime);
        token
    }

    pub fn revoke(&mut self) {
        self.tokens.clear();
        self.trusts_key = false;
    }

    /// Checks that a request's bearer token is valid.
    pub fn check(&self, head: &Head) -> Result<(), Failure> {
        let refused = |code, matter: &str| Err(Failure::new(401, code, matter));
        let Some(header) = head.header("authorization") else {
            return refused("AuthenticationRequired", "Authentication required.");
        };
        let Some(bearer) = header.strip_prefix("Bearer ") else {
            return refused("AuthenticationRequired", "Only bearer tokens are accepted here.");
        };
        if bearer.matches('.').count() == 2 && !bearer.starts_with("ya29.") {
            return match self.verify(bearer).and_then(|claims| self_signed(&claims)) {
                Ok(()) => Ok(()),
                Err(matter) => refused("AuthenticationRequired", &matter),
            };
        }
        match self.tokens.get(bearer) {
            Some(expiry) if *expiry > Instant::now() => Ok(()),
            Some(_) => refused("AuthenticationRequired", "The token has expired."),
            None => refused("AuthenticationRequired", "Invalid token."),
        }
    }

    /// The claims of a JWT, if the key has signed it and it is valid now.
    fn verify(&self, jwt: &str) -> Result<Value, String> {
        let (message, signature) = jwt.rsplit_once('.').ok_or("no JWT")?;
        let (header, claims) = message.split_once('.').ok_or("no JWT")?;
        let (header, claims) = (decoded(header)?, decoded(claims)?);
        if header["alg"] != "RS256" || header["typ"] != "JWT" || header["kid"] != KEY_ID || !self.trusts_key {
            return Err("the JWT is signed by an unknown key".to_owned());
        }
        let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).map_err(|_| "no base64")?;
        let key = key_pair();
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.public_key())
            .verify(message.as_bytes(), &signature)
            .map_err(|_| "the signature of the JWT is wrong")?;
        let now = date::now().unix_timestamp();
        let time = |name: &str| claims[name].as_i64().ok_or(format!("no {name} in the JWT"));
        let (issued, expires) = (time("iat")?, time("exp")?);
        if issued > now + SKEW || expires <= now || expires - issued > LONGEST {
            return Err("the JWT is not valid now".to_owned());
        }
        if claims["iss"] != EMAIL {
            return Err("the JWT is from an unknown account".to_owned());
        }
        Ok(claims)
    }

    /// The token endpoint.
    pub fn answer(&mut self, request: &Request) -> Response {
        let refused = |error: &str, matter: &str| {
            let body = json!({"error": error, "error_description": matter}).to_string();
            Response::new(400, body).with_header("Content-Type", "application/json")
        };
        if request.head.method() != "POST" {
            return refused("invalid_request", "POST it");
        }
        let form = call::parameters(&String::from_utf8_lossy(&request.body));
        let value = |name: &str| {
            let found = form.iter().find(|(other, _)| other == name);
            found.map(|(_, value)| value.as_str()).unwrap_or_default()
        };
        if value("grant_type") != GRANT {
            return refused("unsupported_grant_type", "only the JWT bearer grant");
        }
        let granted = self.verify(value("assertion")).and_then(|claims| {
            let audience = claims["aud"].as_str().unwrap_or_default();
            if !audience.ends_with(TOKEN_PATH) {
                return Err("the audience is another token endpoint".to_owned());
            }
            has_scope(&claims)
        });
        match granted {
            Ok(()) => {
                self.issued += 1;
                let token = self.issue(self.lifetime);
                token_answer(&token, self.lifetime)
            }
            Err(matter) => refused("invalid_grant", &matter),
        }
    }

    /// The metadata service of a machine whose account has access.
    pub fn answer_metadata(&mut self, request: &Request) -> Response {
        if request.head.header("metadata-flavor") != Some("Google") {
            return Response::new(403, "Metadata-Flavor: Google is missing");
        }
        self.issued += 1;
        let token = self.issue(self.lifetime);
        token_answer(&token, self.lifetime).with_header("Metadata-Flavor", "Google")
    }
}

fn token_answer(token: &str, lifetime: Duration) -> Response {
    let body = json!({"access_token": token, "expires_in": lifetime.as_secs(), "token_type": "Bearer"});
    Response::new(200, body.to_string()).with_header("Content-Type", "application/json")
}

/// Checks the claims of a JWT that is itself the bearer token (<https://google.aip.dev/auth/4111>).
fn self_signed(claims: &Value) -> Result<(), String> {
    if claims["sub"] != EMAIL {
        return Err("the JWT is about another account".to_owned());
    }
    if claims["aud"] == "https://storage.googleapis.com/" {
        return Ok(());
    }
    has_scope(claims)
}

fn has_scope(claims: &Value) -> Result<(), String> {
    let mut scopes = claims["scope"].as_str().unwrap_or_default().split(' ');
    if scopes.any(|scope| SCOPES.contains(&scope)) {
        return Ok(());
    }
    Err("the scope allows nothing here".to_owned())
}

fn decoded(part: &str) -> Result<Value, String> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| "no base64")?;
    serde_json::from_slice(&bytes).map_err(|_| "no JSON".to_owned())
}

fn key_pair() -> RsaKeyPair {
    let lines: String = KEY.lines().filter(|line| !line.starts_with('-')).collect();
    let der = BASE64_STANDARD.decode(lines).expect("the key's base64");
    RsaKeyPair::from_pkcs8(&der).expect("the key")
}
