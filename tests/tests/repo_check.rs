//! `repo-check` tries a place with the user's options, and with each source of credentials.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pgmesh_tests::http::{HttpServer, Request, Response};
use pgmesh_tests::stores::{AzureServer, Bucket, GcsServer, S3Server};
use pgmesh_tests::{Node, Outcome, Scratch, pgmesh, run, wait_for};

const BUCKET: &str = "checked";

/// Runs `repo-check` for a repository in a file, with some variables in the environment.
fn check(scratch: &Scratch, bucket: &Bucket, environment: &[(&str, String)], arguments: &[&str]) -> Outcome {
    let file = scratch.join("check.conf");
    let account = scratch.account();
    account.write(&file, format!("[global]\n{}", bucket.lines(2)));
    let mut command = account.command(pgmesh(scratch.path()), scratch.path());
    command
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .arg(format!("--config={}", file.display()))
        .args(["--repo=2", "repo-check"])
        .args(arguments);
    run(command)
}

/// A server that answers every request with the result of `answer`, and a count of the requests for which there was
/// one.
fn service(answer: impl Fn(&Request) -> Option<String> + Send + Sync + 'static) -> (HttpServer, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let server = HttpServer::start(move |request| match answer(&request) {
        Some(body) => {
            count.fetch_add(1, Ordering::Relaxed);
            Response {
                status: 200,
                headers: vec![("Content-Type".to_owned(), "application/json".to_owned())],
                body: body.into_bytes(),
            }
        }
        None => Response {
            status: 404,
            headers: Vec::new(),
            body: Vec::new(),
        },
    });
    (server.expect("a server"), asked)
}

#[test]
fn each_step_is_told_and_nothing_is_left() {
    let scratch = Scratch::new("repo-check");
    let (s3, azure, gcs) = (
        S3Server::start(BUCKET),
        AzureServer::start(BUCKET),
        GcsServer::start(BUCKET),
    );
    let folder = scratch.folder("directory");
    let directory = Bucket::new("posix").with("path", folder.join("repo").display().to_string());
    for bucket in [
        s3.bucket(BUCKET, s3.address()).with("path", "/some/where"),
        azure.bucket(BUCKET, azure.address()),
        gcs.bucket(BUCKET, gcs.address()),
        directory,
    ] {
        let outcome = check(&scratch, &bucket, &[], &[]).ok();
        let text = &outcome.stdout;
        assert_eq!(
            text.lines().filter(|line| line.trim_start().starts_with("ok ")).count(),
            10,
            "{text}"
        );
    }
    assert!(s3.names(BUCKET).is_empty() && azure.names(BUCKET).is_empty() && gcs.names(BUCKET).is_empty());
    assert_eq!(folder.read_dir().expect("the folder").count(), 0);
    let bucket = s3.bucket(BUCKET, s3.address());
    let json = check(&scratch, &bucket.clone().with("delete", "n"), &[], &["--output=json"])
        .ok()
        .json();
    assert_eq!(json["place"], format!("s3://{BUCKET}/"));
    let steps = json["step"].as_array().expect("steps");
    assert_eq!(steps.len(), 10);
    assert_eq!(steps[9]["outcome"], "note");
    assert!(!s3.names(BUCKET).is_empty(), "delete=n leaves what was written");
    // An impossible place is reported with its exit code.
    let missing = check(&scratch, &bucket.clone().with("s3-bucket", "nowhere"), &[], &[]);
    missing.fails(&[103], &["there is no such bucket or container"]);
    check(&scratch, &bucket.clone().without("s3-bucket"), &[], &[]).fails(&[37], &["repo2-s3-bucket"]);
    let odd = bucket.with("object-lock", "governance");
    check(&scratch, &odd, &[], &[]).fails(&[31], &["object-lock-period"]);
}

#[test]
fn what_is_not_of_a_repository_is_no_damage_of_it() {
    let scratch = Scratch::new("repo-check-left");
    let mut s3 = S3Server::start(BUCKET);
    // The second repository lies below the first.
    let bucket = s3.bucket(BUCKET, s3.address()).with("path", "/");
    let node = Node::builder(&scratch, "alpha")
        .repository_on(&bucket)
        .repository_on(&bucket.clone().with("path", "/second"))
        .start();
    wait_for("both repositories to be open", Duration::from_secs(60), || {
        node.run(&["verify"]).code() == Some(0)
    });
    let checked = check(&scratch, &bucket.clone().with("delete", "n"), &[], &[]).ok();
    let left = s3.names(BUCKET);
    let folder = left
        .iter()
        .find_map(|name| name.split('/').find(|part| part.starts_with("pgmesh-check-")))
        .expect("delete=n leaves what was written");
    let place = format!("of this check stay in s3://{BUCKET}/{folder}");
    assert!(checked.text().contains(&place), "{checked}");

    let verified = node.run(&["verify", "--output=json"]).ok().json();
    assert_eq!(verified["status"], "ok", "{verified}");
    let findings = verified["findings"].as_array().expect("findings");
    assert_eq!(findings.len(), 1, "{verified}");
    assert_eq!(findings[0]["kind"], "foreign");
    assert_eq!(findings[0]["repo"], 1);
    assert_eq!(findings[0]["subject"], "second/");

    // A repository that cannot be read is not damaged either.
    s3.kill();
    let away = node.run(&["verify", "--output=json"]);
    away.fails(&[103], &[]);
    assert_eq!(away.json()["status"], "incomplete", "{away}");
}

#[test]
fn s3_takes_roles_from_the_machine_the_pod_and_a_web_identity() {
    let scratch = Scratch::new("repo-check-roles");
    // The server takes any credentials: the test judges the source of the credentials.
    let s3 = S3Server::start(BUCKET);
    let bucket = s3.bucket(BUCKET, s3.address());
    let option = |name: &str| bucket.option(name).expect("an option").to_owned();
    let (key, secret) = (option("s3-key"), option("s3-key-secret"));
    let without = bucket.clone().without("s3-key").without("s3-key-secret");
    let json = format!(
        r#"{{"AccessKeyId":"{key}","SecretAccessKey":"{secret}","Token":"session","Expiration":"2099-01-01T00:00:00Z"}}"#
    );
    let xml = format!(
        "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
         <AccessKeyId>{key}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey><SessionToken>session</SessionToken>\
         <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleWithWebIdentityResult>\
         </AssumeRoleWithWebIdentityResponse>"
    );
    let of_machine = json.clone();
    let (machine, asked) = service(move |request| {
        let token = request.head.header("x-aws-ec2-metadata-token") == Some("of the machine");
        match (request.head.method(), request.head.target()) {
            ("PUT", "/latest/api/token") => Some("of the machine".to_owned()),
            ("GET", "/latest/meta-data/iam/security-credentials/") if token => Some("backup".to_owned()),
            ("GET", "/latest/meta-data/iam/security-credentials/backup") if token => Some(of_machine.clone()),
            _ => None,
        }
    });
    let endpoint = |server: &HttpServer| format!("http://{}", server.address());
    let environment = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", endpoint(&machine))];
    let auto = without.clone().with("s3-key-type", "auto");
    check(&scratch, &auto, &environment, &[]).succeeds();
    assert_eq!(asked.load(Ordering::Relaxed), 3, "one token for all steps");

    let token_file = scratch.join("token");
    scratch.account().write(&token_file, "of the pod");
    let token_file = token_file.display().to_string();
    let (pod, asked) = service(move |request| {
        let known = request.head.header("authorization") == Some("of the pod");
        known.then(|| json.clone())
    });
    let environment = [
        (
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            format!("{}/v1/credentials", endpoint(&pod)),
        ),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token_file.clone()),
    ];
    check(
        &scratch,
        &without.clone().with("s3-key-type", "pod-id"),
        &environment,
        &[],
    )
    .succeeds();
    assert_eq!(asked.load(Ordering::Relaxed), 1);

    let (sts, asked) = service(move |request| {
        let target = request.head.target();
        let known = target.contains("WebIdentityToken=of") && target.contains("Action=AssumeRoleWithWebIdentity");
        known.then(|| xml.clone())
    });
    let environment = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token_file),
        ("AWS_ROLE_ARN", "arn:aws:iam::1:role/backup".to_owned()),
        ("AWS_ENDPOINT_URL_STS", endpoint(&sts)),
    ];
    let web = without.with("s3-key-type", "web-id");
    check(&scratch, &web, &environment, &[]).succeeds();
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    // If a variable is missing, the message names it; if the token is refused, the message says that there are no
    // credentials.
    check(&scratch, &web, &[], &[]).fails(&[31], &["AWS_WEB_IDENTITY_TOKEN_FILE"]);
    let (deaf, _) = service(|_| None);
    let environment = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", endpoint(&deaf))];
    let refused = check(&scratch, &auto, &environment, &[]);
    refused.fails(&[103], &["the token server gave no token"]);
    assert!(!refused.to_string().contains(&secret), "{refused}");
}

#[test]
fn azure_and_gcs_take_identities_from_the_machine_and_the_pod() {
    let scratch = Scratch::new("repo-check-identities");
    let gcs = GcsServer::start(BUCKET);
    let bucket = gcs
        .bucket(BUCKET, gcs.address())
        .without("gcs-key")
        .with("gcs-key-type", "auto");
    let environment = [("GCE_METADATA_HOST", gcs.address().to_string())];
    check(&scratch, &bucket, &environment, &[]).succeeds();
    // Azurite takes tokens only over TLS with a name of Azure's, so a server that knows this token stands in for it.
    let (azure, lists) = service(|request| {
        let known = request.head.header("authorization") == Some("Bearer of the identity");
        let list = "<EnumerationResults><Blobs></Blobs><NextMarker></NextMarker></EnumerationResults>";
        (known && request.head.method() == "GET").then(|| list.to_owned())
    });
    let bucket = Bucket::new("azure")
        .with("azure-account", "account")
        .with("azure-container", BUCKET)
        .with("azure-endpoint", format!("http://{}", azure.address()))
        .with("azure-uri-style", "path")
        .with("azure-key-type", "auto");
    let token =
        r#"{"access_token":"of the identity","expires_in":3600,"expires_on":"4102444800","token_type":"Bearer"}"#;
    let (machine, asked_machine) = service(move |request| {
        let known = request.head.header("x-identity-header") == Some("header of the machine");
        known.then(|| token.to_owned())
    });
    let (tenant, asked_tenant) = service(move |request| {
        let assertion = String::from_utf8_lossy(&request.body).contains("client_assertion=of+the+pod");
        (assertion && request.head.target() == "/tenant/oauth2/v2.0/token").then(|| token.to_owned())
    });
    let token_file = scratch.join("token");
    scratch.account().write(&token_file, "of the pod");
    let of_machine = vec![
        ("IDENTITY_ENDPOINT", format!("http://{}/token", machine.address())),
        ("IDENTITY_HEADER", "header of the machine".to_owned()),
    ];
    let of_pod = vec![
        ("AZURE_CLIENT_ID", "client".to_owned()),
        ("AZURE_TENANT_ID", "tenant".to_owned()),
        ("AZURE_FEDERATED_TOKEN_FILE", token_file.display().to_string()),
        ("AZURE_AUTHORITY_HOST", format!("http://{}", tenant.address())),
    ];
    for (number, environment) in [of_machine, of_pod].iter().enumerate() {
        // The bucket can be listed, and not be written.
        let outcome = check(&scratch, &bucket, environment, &[]);
        outcome.fails(&[103], &["does not write an object"]);
        assert!(
            outcome.text().contains("ms  reach it and list its objects"),
            "{outcome}"
        );
        assert_eq!(lists.load(Ordering::Relaxed), number + 1);
    }
    assert_eq!(
        (
            asked_machine.load(Ordering::Relaxed),
            asked_tenant.load(Ordering::Relaxed)
        ),
        (1, 1)
    );
}
