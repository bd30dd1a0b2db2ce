//! Certificates of servers with TLS.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};

/// Whether a client should trust a server's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fitness {
    /// Valid, and for 127.0.0.1 and `localhost`.
    Fit,
    /// Valid for another host.
    OtherHost,
    /// Expired.
    Expired,
}

/// The files of a server's certificate and of the authority that signs it.
#[derive(Debug)]
pub struct Certificates {
    ca: PathBuf,
    chain: PathBuf,
    key: PathBuf,
}

impl Certificates {
    /// Makes an authority of its own, and a certificate signed by it.
    #[must_use]
    pub fn make(folder: &Path, fitness: Fitness) -> Self {
        let made = Self {
            ca: folder.join("ca.pem"),
            chain: folder.join("server.pem"),
            key: folder.join("server.key"),
        };
        made.write(fitness).expect("making certificates");
        made
    }

    /// The authority's certificate. Every account may read it.
    #[must_use]
    pub fn ca(&self) -> &Path {
        &self.ca
    }

    /// The server's certificate.
    #[must_use]
    pub fn chain(&self) -> &Path {
        &self.chain
    }

    /// The server's key.
    #[must_use]
    pub fn key(&self) -> &Path {
        &self.key
    }

    fn write(&self, fitness: Fitness) -> Result<(), rcgen::Error> {
        let authority_key = KeyPair::generate()?;
        let mut authority = CertificateParams::new(Vec::<String>::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority
            .distinguished_name
            .push(rcgen::DnType::CommonName, "authority of a test");
        let root = authority.self_signed(&authority_key)?;
        let issuer = Issuer::new(authority, authority_key);
        let names = match fitness {
            Fitness::OtherHost => vec!["elsewhere.example".to_owned()],
            _ => vec!["127.0.0.1".to_owned(), "localhost".to_owned()],
        };
        let key = KeyPair::generate()?;
        let mut parameters = CertificateParams::new(names)?;
        if fitness == Fitness::Expired {
            parameters.not_before = date_time_ymd(2020, 1, 1);
            parameters.not_after = date_time_ymd(2020, 2, 1);
        }
        let certificate = parameters.signed_by(&key, &issuer)?;
        let write = |path: &Path, text: String| fs::write(path, text).expect("writing a certificate");
        write(&self.ca, root.pem());
        write(&self.chain, certificate.pem());
        write(&self.key, key.serialize_pem());
        Ok(())
    }
}
