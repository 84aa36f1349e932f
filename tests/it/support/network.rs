//! Hosts of their own on one machine: network namespaces, each with one link to the server.

use std::process::Command;

/// A host that reaches the server over one link, until it is dropped.
pub(crate) struct Host {
    name: String,
    link: String,
    /// The server's address on this link.
    pub(crate) server: String,
}

impl Host {
    /// The `number`-th host of a test; `net` is a number that no other test has.
    pub(crate) fn new(net: u8, number: u8) -> Self {
        let name = format!("rs{}n{net}h{number}", std::process::id() % 10_000);
        let (link, peer) = (format!("{name}s"), format!("{name}h"));
        let subnet = format!("10.77.{}", net * 10 + number);
        let server = format!("{subnet}.1");
        let host = Self { name: name.clone(), link: link.clone(), server };
        for command in [
            format!("netns add {name}"),
            format!("link add {link} type veth peer name {peer} netns {name}"),
            format!("addr add {}/24 dev {link}", host.server),
            format!("link set {link} up"),
            format!("-n {name} addr add {subnet}.2/24 dev {peer}"),
            format!("-n {name} link set {peer} up"),
            format!("-n {name} link set lo up"),
        ] {
            ip(&command);
        }
        host
    }

    /// The same command on this host.
    pub(crate) fn adopt(&self, command: &mut Command) {
        let mut there = Command::new("ip");
        there.args(["netns", "exec", &self.name]).arg(command.get_program()).args(command.get_args());
        there.env_clear();
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                there.env(name, value);
            }
        }
        there.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        *command = there;
    }

    /// Cuts the link: packets are lost without an error.
    pub(crate) fn cut(&self) {
        ip(&format!("-n {} link set {}h down", self.name, self.name));
    }

    pub(crate) fn heal(&self) {
        ip(&format!("-n {} link set {}h up", self.name, self.name));
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", &self.link]).status();
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(done.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&done.stderr));
}
