//! `client list`, `client revoke`.

use super::argument;
use super::columns::{columns, or_dash};
use crate::config::Config;
use crate::exit::ExitCode;
use crate::output::{self, OutputFormat, harmless, timestamp};
use crate::settings;
use pgmesh_client::mesh::Mesh;
use pgmesh_protocol::{AuthorityMove, CertificateInfo, Failure, ListCertificates, RevokeCertificates, now_unix};
use serde_json::{Value, json};
use std::fmt::Write;

/// So many digits of a key tell two apart; the audit trail names as many.
const KEY_DIGITS: usize = 16;

/// Shows who holds a certificate.
pub async fn list(config: &Config) -> Result<ExitCode, Failure> {
    let mesh = Mesh::connect(settings::access::of(config)?).await?;
    let mut all = all(&mesh).await?;
    all.sort_by(|one, other| (&one.name, one.issued_at).cmp(&(&other.name, other.issued_at)));
    let now = now_unix();
    match OutputFormat::of(config) {
        OutputFormat::Json => output::print_json(&all.iter().map(|one| json(one, now)).collect::<Value>())?,
        OutputFormat::Text => output::print(&text(&all, now))?,
    }
    Ok(ExitCode::Ok)
}

async fn all(mesh: &Mesh) -> Result<Vec<CertificateInfo>, Failure> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = mesh.call(&ListCertificates { after }).await?;
        after = page.certificates.last().map(|last| last.key);
        all.extend(page.certificates);
        if !page.more || after.is_none() {
            return Ok(all);
        }
    }
}

/// Makes the certificates of a name count no more.
pub async fn revoke(config: &Config) -> Result<ExitCode, Failure> {
    let name = argument(
        config,
        0,
        "the name of a client, an administrator, a monitor or a restoring host",
    )?
    .to_owned();
    let revoke = RevokeCertificates {
        name: name.clone().into(),
        reason: config.text("reason").unwrap_or_default().into(),
        force: config.flag("force"),
    };
    let mesh = Mesh::connect(settings::access::of(config)?).await?;
    let revoked = mesh.call(&revoke).await?;
    output::print(&outcome(&name, revoked.certificates))?;
    Ok(ExitCode::Ok)
}

fn outcome(name: &str, certificates: u32) -> String {
    match certificates {
        0 => format!(
            "no certificate of {name} is known that counts ('pgmesh client list'); each node that hears of it refuses \
             certificates of that name that were issued before"
        ),
        1 => format!("the certificate of {name} is revoked: each node that hears of it serves it no more"),
        many => format!("{many} certificates of {name} are revoked: each node that hears of it serves them no more"),
    }
}

fn key(certificate: &CertificateInfo) -> String {
    certificate.key.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn state(certificate: &CertificateInfo, now: i64) -> &'static str {
    match certificate.revoked {
        Some(_) => "revoked",
        None if certificate.not_after <= now => "expired",
        None => "valid",
    }
}

fn json(certificate: &CertificateInfo, now: i64) -> Value {
    json!({
        "name": certificate.name,
        "role": certificate.role,
        "stanzas": certificate.stanzas,
        "key": key(certificate),
        "issued": certificate.issued_at,
        "renewed": certificate.renewed_at,
        "expires": certificate.not_after,
        "state": state(certificate, now),
        "authority": match certificate.move_to_next {
            AuthorityMove::Done => "present",
            AuthorityMove::Due => "former",
            AuthorityMove::Barred => "suspect",
        },
        "revoked": certificate.revoked.as_ref().map(|revoked| json!({
            "at": revoked.at,
            "by": revoked.by,
            "reason": revoked.why,
        })),
    })
}

fn text(certificates: &[CertificateInfo], now: i64) -> String {
    let rows: Vec<Vec<String>> = certificates.iter().map(|one| row(one, now)).collect();
    columns(
        &[
            "name", "role", "stanzas", "key", "issued", "renewed", "expires", "state",
        ],
        &rows,
    )
}

fn row(certificate: &CertificateInfo, now: i64) -> Vec<String> {
    let mut state = state(certificate, now).to_owned();
    if let Some(revoked) = &certificate.revoked {
        let _ = write!(state, " {} by {}", timestamp(revoked.at), harmless(&revoked.by));
        if !revoked.why.is_empty() {
            let _ = write!(state, ": {}", harmless(&revoked.why));
        }
    }
    state.push_str(match certificate.move_to_next {
        AuthorityMove::Done => "",
        AuthorityMove::Due => ", has not moved to the new authority",
        AuthorityMove::Barred => ", first seen during the rotation: has to join again",
    });
    vec![
        certificate.name.clone(),
        certificate.role.clone(),
        or_dash(certificate.stanzas.join(",")),
        key(certificate).chars().take(KEY_DIGITS).collect(),
        timestamp(certificate.issued_at),
        or_dash(certificate.renewed_at.map(timestamp).unwrap_or_default()),
        timestamp(certificate.not_after),
        state,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgmesh_protocol::CertificateRevoked;

    fn certificate(name: &str, not_after: i64, revoked: bool) -> CertificateInfo {
        CertificateInfo {
            key: [0xab; 32],
            name: name.to_owned(),
            role: "client".to_owned(),
            stanzas: vec!["main".to_owned(), "reports".to_owned()],
            issued_at: 1_739_584_801,
            not_after,
            renewed_at: None,
            revoked: revoked.then(|| CertificateRevoked {
                at: 1_739_584_801,
                by: "admin n1 (00)".to_owned(),
                why: "disk stolen".to_owned(),
            }),
            move_to_next: AuthorityMove::Done,
        }
    }

    #[test]
    fn the_list_is_a_table_for_people_and_keys_for_programs() {
        let mut all = [
            certificate("db1", 2_000_000_000, false),
            certificate("db2", 2_000_000_000, true),
            certificate("db3", 1_800_000_000, false),
        ];
        let text = text(&all, 1_900_000_000);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("name  role    stanzas       key"), "{text}");
        assert!(
            lines[1].starts_with("db1   client  main,reports  abababababababab  ") && lines[1].ends_with("valid"),
            "{text}"
        );
        assert!(
            lines[2].contains("revoked ") && lines[2].ends_with("by admin n1 (00): disk stolen"),
            "{text}"
        );
        assert!(lines[3].ends_with("expired"), "{text}");
        let json = json(&all[1], 1_900_000_000);
        assert_eq!(
            (&json["state"], &json["revoked"]["reason"]),
            (&json!("revoked"), &json!("disk stolen"))
        );
        assert_eq!(json["key"], "ab".repeat(32));
        all[0].move_to_next = AuthorityMove::Due;
        assert!(super::text(&all, 1_900_000_000).contains("valid, has not moved to the new authority"));
        assert_eq!(super::json(&all[0], 1_900_000_000)["authority"], "former");
    }

    #[test]
    fn what_was_revoked_is_said() {
        assert!(outcome("db1", 1).contains("db1 is revoked"));
        assert!(outcome("db1", 2).starts_with("2 certificates of db1"));
        assert!(outcome("db1", 0).contains("before"));
    }
}
