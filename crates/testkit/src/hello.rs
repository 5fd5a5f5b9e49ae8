//! The first bytes of a TLS client, as any such client sends them: enough for whoever routes by server name.
//!
//! Tests send them in as many segments and records as they like, and complete no handshake.

/// A ClientHello for a server name, as one handshake message without records.
pub fn client_hello(name: &str) -> Vec<u8> {
    let name = name.as_bytes();
    let mut sni = vec![0, 0];
    sni.extend(length(name.len() + 5));
    sni.extend(length(name.len() + 3));
    sni.push(0);
    sni.extend(length(name.len()));
    sni.extend(name);
    let mut body = vec![3, 3];
    body.extend([9; 32]);
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    body.extend(length(sni.len()));
    body.extend(sni);
    let mut message = vec![1, 0];
    message.extend(length(body.len()));
    message.extend(body);
    message
}

/// The message in records of at most `size` bytes each.
pub fn records(message: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in message.chunks(size) {
        bytes.extend([22, 3, 1]);
        bytes.extend(length(part.len()));
        bytes.extend(part);
    }
    bytes
}

fn length(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap().to_be_bytes()
}
