//! A TLS client that speaks the protocol by hand, and somebody in the middle who reads along.

use crate::raw_client::PATIENCE;
use pgwire::startup::encode_ssl_request;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, ServerConfig, ServerConnection,
    SignatureScheme, StreamOwned,
};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

pub type RawTls = StreamOwned<ClientConnection, TcpStream>;

/// Believes everybody, as libpq with sslmode=require does.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

pub fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// TLS on a socket on which the other side expects it; `alpn` is the protocol that is asked for.
pub fn begin(socket: TcpStream, alpn: Option<&[u8]>) -> RawTls {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = builder
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let name = ServerName::try_from("localhost").unwrap();
    StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), socket)
}

/// As every client before PostgreSQL 17 does.
pub fn ask(address: SocketAddr) -> RawTls {
    let mut socket = connect(address);
    socket.write_all(&encode_ssl_request()).unwrap();
    let mut answer = [0];
    socket.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b"S");
    begin(socket, None)
}

/// Who sits between a client and `target`, shows this certificate, and takes the offer of channel binding away if it
/// `strips`. Serves clients until the test ends.
pub fn in_the_middle(target: SocketAddr, cert: &str, key: &str, strips: bool) -> SocketAddr {
    let chain = vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()];
    let secret = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = Arc::new(builder.unwrap().with_no_client_auth().with_single_cert(chain, secret).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let (config, mut socket) = (Arc::clone(&config), socket.unwrap());
            std::thread::spawn(move || {
                let mut request = [0; 8];
                socket.read_exact(&mut request).unwrap();
                socket.write_all(b"S").unwrap();
                let client = StreamOwned::new(ServerConnection::new(config).unwrap(), socket);
                pass_on(client, ask(target), strips);
            });
        }
    });
    address
}

/// Passes a login on: in it, each side waits for the other's word.
fn pass_on(mut client: StreamOwned<ServerConnection, TcpStream>, mut server: RawTls, strips: bool) {
    let mut bytes = vec![0; 16 * 1024];
    while let Ok(len @ 1..) = client.read(&mut bytes) {
        server.write_all(&bytes[..len]).unwrap();
        let Ok(len @ 1..) = server.read(&mut bytes) else { return };
        let mut answer = bytes[..len].to_vec();
        let offer = b"SCRAM-SHA-256-PLUS\0";
        if let Some(at) = answer.windows(offer.len()).position(|window| window == offer).filter(|_| strips) {
            answer.drain(at..at + offer.len());
            // The message's length is in its second to fifth byte.
            answer[4] -= offer.len() as u8;
        }
        if client.write_all(&answer).is_err() {
            return;
        }
    }
}
