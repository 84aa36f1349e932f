//! TLS with a database server.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio_rustls::TlsConnector;

use super::{Route, Stream};
use crate::address::{ClientCertificate, TlsMode};

/// The files of certificates. They are read for each connection, so that a new certificate needs no restart.
pub(super) struct Files {
    /// The root certificates; `None` for the built-in ones.
    pub(super) authority: Option<PathBuf>,
    /// The client's certificate; `None` for none.
    pub(super) client: Option<ClientCertificate>,
}

/// Encrypts a stream to the server `name`, and verifies it as the route says.
pub(super) async fn handshake(
    server: Box<dyn Stream>,
    name: &str,
    route: &Route,
) -> Result<Box<dyn Stream>, sqlx::Error> {
    let config = config(route).map_err(|detail| sqlx::Error::Tls(detail.into()))?;
    let name = ServerName::try_from(name.to_owned()).map_err(|error| sqlx::Error::Tls(error.into()))?;
    Ok(Box::new(TlsConnector::from(Arc::new(config)).connect(name, server).await?))
}

/// # Errors
/// Which file cannot be used, and why.
pub(super) fn config(route: &Route) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    let roots = roots(route.certificates.authority.as_deref())?;
    let verifier = if route.tls.is_verified() {
        let verifier =
            WebPkiServerVerifier::builder_with_provider(roots.into(), Arc::clone(&provider)).build();
        Some(verifier.map_err(|error| error.to_string())?)
    } else {
        None
    };
    let verifier = Verifier { provider, verifier, any_name: route.tls == TlsMode::VerifyCa };
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    let Some(ClientCertificate { certificate, key }) = &route.certificates.client else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates(certificate)?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| invalid("private key", key, &error))?;
    builder.with_client_auth_cert(chain, private).map_err(|error| invalid("certificate", certificate, &error))
}

fn invalid(what: &str, file: &Path, error: &dyn std::fmt::Display) -> String {
    format!("{what} file {}: {error}", file.display())
}

/// The root certificates: only those of the file, or the built-in ones if no file is configured.
pub(super) fn roots(file: Option<&Path>) -> Result<RootCertStore, String> {
    let Some(file) = file else {
        return Ok(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() });
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots.add(certificate).map_err(|error| invalid("certificate", file, &error))?;
    }
    Ok(roots)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read.map_err(|error| invalid("certificate", file, &error))? {
        none if none.is_empty() => Err(invalid("certificate", file, &"there is no certificate in it")),
        certificates => Ok(certificates),
    }
}

/// Verifies what a [`TlsMode`] requires.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    /// If `None`, only that the server has the key of its certificate.
    verifier: Option<Arc<WebPkiServerVerifier>>,
    /// Whether the certificate may name another host.
    any_name: bool,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(verifier) = &self.verifier else { return Ok(ServerCertVerified::assertion()) };
        match verifier.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.any_name => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
