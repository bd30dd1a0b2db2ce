//! moto: an S3 in Python.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use pgmesh_chaos::http::Response;

use super::Bucket;
use super::bucket::endpoint;
use super::certificates::{Certificates, Fitness};
use super::program::{Server, installed};
use super::xml::{element, elements, encoded_path, encoded_value, unescaped};
use crate::outcome::run;
use crate::process::Process;

const REGION: &str = "us-east-1";
/// Any credentials are accepted until [`S3Server::enforce_credentials`].
const ANY_KEY: &str = "AKIATESTSTESTSTESTS0";
const ANY_SECRET: &str = "planted-secret-of-s3/0123456789abcdefghij";

/// A running moto. It ends, with all that it stores, when it is dropped.
#[derive(Debug)]
pub struct S3Server {
    server: Server,
    credentials: (String, String),
    enforcing: bool,
    certificates: Option<Certificates>,
}

impl S3Server {
    /// Starts moto with a bucket. It accepts any credentials.
    ///
    /// # Panics
    /// If moto is not installed, or does not start.
    #[must_use]
    pub fn start(bucket: &str) -> Self {
        let server = Self::launch(None, |_| {});
        server.create_bucket(bucket);
        server
    }

    /// The same with TLS, and a certificate of this fitness.
    #[must_use]
    pub fn start_with_tls(bucket: &str, fitness: Fitness) -> Self {
        let mut certificates = None;
        let server = Server::start("moto", |address, scratch| {
            let made = Certificates::make(&scratch.folder("tls"), fitness);
            let mut command = program(address);
            command.arg("-s").arg("-c").arg(made.chain()).arg("-k").arg(made.key());
            certificates = Some(made);
            command
        });
        let server = Self::around(server, certificates);
        // Python makes the bucket, since it speaks TLS. This request is not part of a test.
        let script = format!(
            "import http.client, ssl\n\
             c = http.client.HTTPSConnection('127.0.0.1', {}, context=ssl._create_unverified_context())\n\
             c.request('PUT', '/{bucket}')\n\
             assert c.getresponse().status == 200",
            server.address().port()
        );
        let python = installed("moto/bin/python", "python3", "make setup");
        let mut command = Command::new(python);
        command.arg("-c").arg(script);
        run(command).succeeds();
        server
    }

    fn launch(certificates: Option<Certificates>, change: impl FnOnce(&mut Command)) -> Self {
        let server = Server::start("moto", |address, _| {
            let mut command = program(address);
            change(&mut command);
            command
        });
        Self::around(server, certificates)
    }

    fn around(server: Server, certificates: Option<Certificates>) -> Self {
        Self {
            server,
            credentials: (ANY_KEY.to_owned(), ANY_SECRET.to_owned()),
            enforcing: false,
            certificates,
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// A node's options for a bucket; `address` is that of the server or of a proxy before it.
    #[must_use]
    pub fn bucket(&self, bucket: &str, address: SocketAddr) -> Bucket {
        let endpoint = match &self.certificates {
            Some(_) => format!("https://{address}"),
            None => endpoint(address),
        };
        Bucket::new("s3")
            .with("s3-bucket", bucket)
            .with("s3-endpoint", endpoint)
            .with("s3-region", REGION)
            .with("s3-uri-style", "path")
            .with("s3-key", &self.credentials.0)
            .with("s3-key-secret", &self.credentials.1)
    }

    /// The certificate of the authority that has signed the server's: `storage-ca-file`.
    ///
    /// # Panics
    /// If it was started without TLS.
    #[must_use]
    pub fn ca_file(&self) -> &Path {
        self.certificates.as_ref().expect("a server with TLS").ca()
    }

    /// From now on accepts only the credentials that [`bucket`](Self::bucket) returns after this call. Each request
    /// then takes the server about three times as long.
    pub fn enforce_credentials(&mut self) {
        if self.enforcing {
            self.set_free_requests(1_000_000);
        } else {
            self.iam("Action=CreateUser");
        }
        let policy = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*"}]}"#;
        self.iam(&format!(
            "Action=PutUserPolicy&PolicyName=all&PolicyDocument={}",
            encoded_value(policy)
        ));
        let answer = self.iam("Action=CreateAccessKey");
        let text = |name| element(&answer, name).unwrap_or_else(|| panic!("no {name} in {answer}"));
        self.credentials = (text("AccessKeyId"), text("SecretAccessKey"));
        self.set_free_requests(0);
        self.enforcing = true;
    }

    /// A request to its identity service.
    fn iam(&self, query: &str) -> String {
        let target = format!("/?{query}&UserName=backup&Version=2010-05-08");
        // moto tells its services apart by the scope of the signature, which it does not check now.
        let scope = format!(
            "AWS4-HMAC-SHA256 Credential={ANY_KEY}/20200101/{REGION}/iam/aws4_request, SignedHeaders=host, Signature=0"
        );
        self.server
            .ask_text("POST", &target, &[("Authorization".to_owned(), scope)])
    }

    /// Withdraws the credentials in force. From now on [`bucket`](Self::bucket) returns new ones.
    pub fn rotate_credentials(&mut self) {
        let withdrawn = self.credentials.0.clone();
        self.enforce_credentials();
        self.set_free_requests(1_000_000);
        self.iam(&format!("Action=DeleteAccessKey&AccessKeyId={withdrawn}"));
        self.set_free_requests(0);
    }

    /// Sets the number of requests that are accepted with any credentials from now on.
    fn set_free_requests(&self, number: u32) {
        let body = number.to_string();
        self.server.ask("POST", "/moto-api/reset-auth", &[], body.as_bytes());
    }

    /// A request by the test itself.
    fn ask(&self, method: &str, target: &str, headers: &[(String, String)], body: &[u8]) -> Vec<u8> {
        self.answer(method, target, headers, body).body
    }

    fn answer(&self, method: &str, target: &str, headers: &[(String, String)], body: &[u8]) -> Response {
        if self.enforcing {
            self.set_free_requests(1_000_000);
        }
        let headers = [&[unsigned("s3")], headers].concat();
        let answer = self.server.ask(method, target, &headers, body);
        if self.enforcing {
            self.set_free_requests(0);
        }
        answer
    }

    fn ask_text(&self, target: &str) -> String {
        String::from_utf8_lossy(&self.ask("GET", target, &[], &[])).into_owned()
    }

    /// Makes a bucket.
    pub fn create_bucket(&self, bucket: &str) {
        self.ask("PUT", &format!("/{bucket}"), &[], &[]);
    }

    /// Makes a bucket whose objects can be put under retention.
    pub fn create_locking_bucket(&self, bucket: &str) {
        let lock = ("x-amz-bucket-object-lock-enabled".to_owned(), "true".to_owned());
        self.ask("PUT", &format!("/{bucket}"), &[lock], &[]);
    }

    /// The names of a bucket's objects, in order.
    #[must_use]
    pub fn names(&self, bucket: &str) -> Vec<String> {
        let mut names = Vec::new();
        let mut query = String::new();
        loop {
            let page = self.ask_text(&format!("/{bucket}?list-type=2{query}"));
            names.extend(elements(&page, "Key").into_iter().map(unescaped));
            match element(&page, "NextContinuationToken") {
                Some(token) => query = format!("&continuation-token={}", encoded_value(&token)),
                None => return names,
            }
        }
    }

    /// An object's content.
    ///
    /// # Panics
    /// If there is no such object.
    #[must_use]
    pub fn content(&self, bucket: &str, name: &str) -> Vec<u8> {
        self.ask("GET", &format!("/{bucket}/{}", encoded_path(name)), &[], &[])
    }

    /// The mode in which an object is retained, if it is.
    #[must_use]
    pub fn retention(&self, bucket: &str, name: &str) -> Option<String> {
        self.header(bucket, name, "x-amz-object-lock-mode")
    }

    /// The value of a header in the server's answer about an object.
    #[must_use]
    pub fn header(&self, bucket: &str, name: &str, header: &str) -> Option<String> {
        let answer = self.answer("HEAD", &format!("/{bucket}/{}", encoded_path(name)), &[], &[]);
        let mut headers = answer.headers.into_iter();
        let found = headers.find(|(other, _)| other.eq_ignore_ascii_case(header));
        found.map(|(_, value)| value)
    }

    /// The number of versions and delete markers in a bucket, 1,000 at most.
    #[must_use]
    pub fn versions(&self, bucket: &str) -> usize {
        elements(&self.ask_text(&format!("/{bucket}?versions")), "VersionId").len()
    }

    /// Replaces the content of an object without pgmesh's knowledge.
    pub fn harm(&self, bucket: &str, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut content = self.content(bucket, name);
        change(&mut content);
        self.ask("PUT", &format!("/{bucket}/{}", encoded_path(name)), &[], &content);
    }

    /// Removes an object without pgmesh's knowledge.
    pub fn remove(&self, bucket: &str, name: &str) {
        self.ask("DELETE", &format!("/{bucket}/{}", encoded_path(name)), &[], &[]);
    }

    /// The number of uploads in parts that were begun in a bucket and neither completed nor given up.
    #[must_use]
    pub fn open_uploads(&self, bucket: &str) -> usize {
        elements(&self.ask_text(&format!("/{bucket}?uploads")), "UploadId").len()
    }

    /// Its process.
    #[must_use]
    pub fn process(&self) -> &Process {
        self.server.process()
    }

    /// Leaves the server running when this value is dropped, and returns its process id.
    pub fn keep(&mut self) -> u32 {
        self.server.keep()
    }

    /// SIGKILL: it does not come back.
    pub fn kill(&mut self) {
        self.server.process_mut().kill();
    }

    /// SIGSTOP: it keeps its port and its connections, and sends nothing.
    pub fn pause(&self) {
        self.server.pause();
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.server.resume();
    }
}

/// A signature that is not checked while any credentials are accepted. Its scope names the service.
fn unsigned(service: &str) -> (String, String) {
    let scope = format!("{ANY_KEY}/20200101/{REGION}/{service}/aws4_request");
    let signature = format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0");
    ("Authorization".to_owned(), signature)
}

fn program(address: SocketAddr) -> Command {
    let mut command = Command::new(installed("moto/bin/moto_server", "moto_server", "make setup"));
    command.args(["-H", "127.0.0.1", "-p", &address.port().to_string()]);
    command
}
