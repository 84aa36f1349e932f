//! The login to MySQL or MariaDB, up to the server's OK:
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_connection_phase.html>
//!
//! The driver does not see TLS, and the server never asks it for the password itself: if the server may have the
//! password, the relay sends it.

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::frames::{Fields, LONGEST_FRAME, Violation};
use super::mysql::{EOF, ERROR, MySql, OK};
use super::route::Reached;
use super::{Route, Stream, password_in_the_clear, tls, violation};
use crate::address::{Host, TlsMode};

/// The most steps of an authentication.
const MAX_STEPS: usize = 16;

/// Capability bits of client and server.
const SSL: u32 = 1 << 11;
const SECURE_CONNECTION: u32 = 1 << 15;
const PLUGIN_AUTH: u32 = 1 << 19;
const DEPRECATE_EOF: u32 = 1 << 24;

const NATIVE: &[u8] = b"mysql_native_password";

/// Authentication methods that tell the server the password. Without TLS, `sha256_password` encrypts it for anyone
/// who sends a key.
const TELLING: [&[u8]; 2] = [b"mysql_clear_password", b"sha256_password"];

/// Steps of `caching_sha2_password`: the digest was enough, or the server wants the password.
const DIGEST_IS_ENOUGH: [u8; 2] = [1, 3];
const DIGEST_IS_UNKNOWN: [u8; 2] = [1, 4];

/// A whole packet.
struct Packet {
    number: u8,
    payload: Vec<u8>,
}

impl Packet {
    /// `None` if the stream ends before the packet.
    async fn read(from: &mut (impl AsyncRead + Unpin)) -> Result<Option<Self>, sqlx::Error> {
        let mut header = [0; 4];
        match from.read_exact(&mut header).await {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        };
        let [a, b, c, number] = header;
        let length = u32::from_le_bytes([a, b, c, 0]) as usize;
        if length == 0 || length > LONGEST_FRAME {
            let detail =
                format!("a packet of {length} bytes before the login; at most {LONGEST_FRAME} are read");
            return Err(violation(Violation::sent(detail)));
        }
        let mut payload = vec![0; length];
        from.read_exact(&mut payload).await?;
        Ok(Some(Self { number, payload }))
    }

    async fn write(&self, to: &mut (impl AsyncWrite + Unpin)) -> Result<(), sqlx::Error> {
        let length = u32::try_from(self.payload.len()).unwrap_or(u32::MAX).to_le_bytes();
        let mut bytes = vec![length[0], length[1], length[2], self.number];
        bytes.extend_from_slice(&self.payload);
        to.write_all(&bytes).await?;
        Ok(to.flush().await?)
    }
}

/// The server's first packet.
struct Greeting {
    capabilities: u32,
    /// The position of the authentication method's name; `None` if there is none.
    plugin: Option<usize>,
}

impl Greeting {
    fn read(packet: &[u8]) -> Option<Self> {
        let mut fields = Fields(packet);
        let [10] = fields.array()? else { return None };
        fields.text()?;
        // The connection's number, the beginning of the nonce, a filler.
        fields.take(4 + 8 + 1)?;
        let low: [u8; 2] = fields.array()?;
        // The charset, the status.
        fields.take(1 + 2)?;
        let high: [u8; 2] = fields.array()?;
        let capabilities = u32::from_le_bytes([low[0], low[1], high[0], high[1]]);
        let [nonce] = fields.array()?;
        fields.take(10)?;
        if capabilities & SECURE_CONNECTION != 0 {
            fields.take(usize::from(nonce).saturating_sub(8).max(13))?;
        }
        let plugin = (capabilities & PLUGIN_AUTH != 0).then(|| packet.len() - fields.0.len());
        if plugin.is_some() {
            fields.text()?;
        }
        Some(Self { capabilities, plugin })
    }
}

/// Logs the driver in. `None` if the server refused, and the driver got its reason.
pub(super) async fn log_in(
    driver: &mut UnixStream,
    reached: Reached,
    route: &Route,
) -> Result<Option<(Box<dyn Stream>, MySql)>, sqlx::Error> {
    let mut server = reached.stream;
    let mut greeting = Packet::read(&mut server).await?.ok_or_else(closed)?;
    if greeting.payload[0] == ERROR {
        greeting.write(driver).await?;
        return Ok(None);
    }
    let says = Greeting::read(&greeting.payload)
        .ok_or_else(|| violation(Violation::sent("a greeting that is not one of version 10")))?;
    let is_encrypted = match (&route.host, route.tls) {
        (Host::Socket(_), _) | (_, TlsMode::Disable) => false,
        _ if says.capabilities & SSL != 0 => true,
        (_, TlsMode::Prefer) => false,
        _ => return Err(sqlx::Error::Tls("the server has no TLS".into())),
    };
    let is_private = if is_encrypted { route.trusts_tls() } else { reached.is_private };
    if let Some(plugin) = says.plugin {
        let end = plugin + without_nul(&greeting.payload[plugin..]).len();
        if TELLING.contains(&&greeting.payload[plugin..end]) {
            // This is only the server's first guess; it asks again for accounts that use the method.
            greeting.payload.splice(plugin..end, NATIVE.iter().copied());
        }
    }
    greeting.write(driver).await?;

    let Some(mut response) = Packet::read(driver).await? else { return Ok(None) };
    let capabilities = response.payload.first_chunk().copied().map_or(0, u32::from_le_bytes);
    if let (true, Host::Tcp(name, _)) = (is_encrypted, &route.host) {
        let Some(common) = response.payload.get_mut(..32) else { return Ok(None) };
        common[..4].copy_from_slice(&(capabilities | SSL).to_le_bytes());
        Packet { number: response.number, payload: common.to_vec() }.write(&mut server).await?;
        server = tls::handshake(server, name, route).await?;
        response.number = response.number.wrapping_add(1);
    }
    response.write(&mut server).await?;

    for _ in 0..MAX_STEPS {
        let mut packet = Packet::read(&mut server).await?.ok_or_else(closed)?;
        if packet.payload[0] == OK {
            packet.write(driver).await?;
            return Ok(Some((server, MySql::new(capabilities & DEPRECATE_EOF != 0))));
        }
        if packet.payload[0] == ERROR {
            packet.write(driver).await?;
            return Ok(None);
        }
        let tells = packet.payload[0] == EOF && TELLING.contains(&without_nul(&packet.payload[1..]));
        if tells || packet.payload == DIGEST_IS_UNKNOWN {
            if !is_private {
                return Err(violation(password_in_the_clear()));
            }
            let mut payload = route.password.clone().unwrap_or_default().into_bytes();
            payload.push(0);
            Packet { number: packet.number.wrapping_add(1), payload }.write(&mut server).await?;
            if !tells {
                // Makes the driver wait for the OK.
                packet.payload = DIGEST_IS_ENOUGH.to_vec();
                packet.write(driver).await?;
            }
            continue;
        }
        packet.write(driver).await?;
        if packet.payload != DIGEST_IS_ENOUGH {
            let Some(answer) = Packet::read(driver).await? else { return Ok(None) };
            answer.write(&mut server).await?;
        }
    }
    Err(violation(Violation::sent(format!("more than {MAX_STEPS} steps of an authentication"))))
}

fn closed() -> sqlx::Error {
    sqlx::Error::Io(std::io::ErrorKind::UnexpectedEof.into())
}

fn without_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}
