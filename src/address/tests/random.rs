//! What is true of any address, whatever its parts are.

use proptest::option::of as maybe;
use proptest::prelude::*;

use super::super::*;

fn host() -> impl Strategy<Value = Host> {
    prop_oneof![
        ("[a-z0-9][a-z0-9.-]{0,20}", 1..=u16::MAX).prop_map(|(name, port)| Host::Tcp(name, port)),
        (any::<[u16; 8]>(), 1..=u16::MAX)
            .prop_map(|(ip, port)| Host::Tcp(std::net::Ipv6Addr::from(ip).to_string(), port)),
        "/[ -~é]{1,30}".prop_map(|path| Host::Socket(path.into())),
    ]
}

/// Any text of such a length: with everything that has a meaning in an address, and what has none.
fn text(length: std::ops::Range<usize>) -> impl Strategy<Value = String> {
    let characters = prop_oneof![
        prop::sample::select("%/?#@:&=+,;[]. \\\t\n\"'*".chars().collect::<Vec<_>>()),
        prop::char::range('0', 'z'),
        any::<char>().prop_filter("no path has it", |c| *c != '\0'),
    ];
    prop::collection::vec(characters, length).prop_map(String::from_iter)
}

fn path() -> impl Strategy<Value = PathBuf> {
    let named = |path: &String| !path.trim_start_matches('/').is_empty();
    text(1..20).prop_filter("it names no file", named).prop_map(PathBuf::from)
}

fn server() -> impl Strategy<Value = Server> {
    let tls = prop::sample::select(
        &[TlsMode::Disable, TlsMode::Prefer, TlsMode::Require, TlsMode::VerifyCa, TlsMode::VerifyFull][..],
    );
    let login = (text(1..9), maybe(text(0..9)), prop_oneof![text(1..9), Just("..".to_owned())]);
    let hosts =
        prop_oneof![prop::collection::vec(host(), 1..6), path().prop_map(|path| vec![Host::Socket(path)]),];
    let client = (path(), path()).prop_map(|(certificate, key)| ClientCertificate { certificate, key });
    (login, hosts, maybe(attrs()), maybe(tls), maybe(path()), maybe(client), maybe(text(0..9))).prop_map(
        |((user, password, database), hosts, session_attrs, tls, tls_ca, tls_client, peer)| {
            // Only a socket's server has one.
            let peer = peer.filter(|_| hosts.iter().all(|host| matches!(host, Host::Socket(_))));
            let user = Some(user);
            Server { hosts, session_attrs, user, password, database, tls, tls_ca, tls_client, peer }
        },
    )
}

fn address() -> impl Strategy<Value = Address> {
    let anonymous = |server: Server| Server { user: None, ..server };
    prop_oneof![
        path().prop_map(Address::SqliteFile),
        path().prop_map(Address::Directory),
        Just(Address::SqliteMemory),
        server().prop_map(Address::MySql),
        server().prop_map(Address::Postgres),
        server().prop_map(move |server| Address::Postgres(anonymous(server))),
    ]
}

fn attrs() -> impl Strategy<Value = SessionAttrs> {
    prop::sample::select(
        &[
            SessionAttrs::Any,
            SessionAttrs::ReadWrite,
            SessionAttrs::ReadOnly,
            SessionAttrs::Primary,
            SessionAttrs::Standby,
            SessionAttrs::PreferStandby,
        ][..],
    )
}

proptest! {
    /// An address that is shown is read back as it was, but for its password.
    #[test]
    fn an_address_that_is_shown_is_the_same_when_read(address in address()) {
        let again = address.to_string().parse::<Address>().unwrap();
        prop_assert_eq!(again.has_password(), address.has_password());
        prop_assert_eq!(again.with_password_of(&address), address);
    }

    /// What is read from any text is shown as an address that is read as the same.
    #[test]
    fn an_address_that_is_read_is_the_same_when_shown(
        scheme in "(sqlite|sqlite\\+aiosqlite|dir|mysql|postgresql):",
        rest in "/{0,4}([a-z]{1,3}(:[a-z]{0,2})?@)?[a-z.%25413F/? :+&=#]{0,20}",
    ) {
        if let Ok(address) = format!("{scheme}{rest}").parse::<Address>() {
            let again = address.to_string().parse::<Address>().unwrap();
            prop_assert_eq!(again.with_password_of(&address), address);
        }
    }

    /// No text makes the parser panic, and none has a server without a host.
    #[test]
    fn any_list_of_hosts_is_read_or_refused(text in "[a-z0-9:,%/@\\[\\]é. ]{0,40}") {
        if let Ok(Address::Postgres(server)) = format!("postgresql://{text}/r").parse::<Address>() {
            prop_assert!(!server.hosts.is_empty());
        }
    }

    #[test]
    fn every_host_is_tried_once_the_avoided_one_last_and_a_written_order_is_kept(
        attrs in attrs(), count in 1_usize..9, draw in any::<u64>(), avoided in maybe(0_usize..9),
    ) {
        let order = attrs.order(count, draw, avoided);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        prop_assert_eq!(sorted, (0..count).collect::<Vec<_>>());
        if let Some(avoided) = avoided.filter(|avoided| *avoided < count) {
            prop_assert_eq!(order.last(), Some(&avoided));
        }
        let others: Vec<_> = order.iter().filter(|host| Some(**host) != avoided).copied().collect();
        if matches!(attrs, SessionAttrs::ReadWrite | SessionAttrs::Primary) {
            prop_assert!(others.is_sorted());
        }
        prop_assert_eq!(attrs.order(count, draw, avoided), order, "one draw, one order");
    }

    /// As libpq's table of its values says; a standby takes no writes.
    #[test]
    fn a_server_is_accepted_as_libpq_does(is_standby in any::<bool>(), is_read_only in any::<bool>()) {
        let role = ServerRole { is_standby, is_read_only, is_cluster_node: false };
        let takes_writes = !is_standby && !is_read_only;
        prop_assert!(SessionAttrs::Any.accepts(role));
        prop_assert_eq!(SessionAttrs::ReadWrite.accepts(role), takes_writes);
        prop_assert_eq!(SessionAttrs::ReadOnly.accepts(role), !takes_writes);
        prop_assert_eq!(SessionAttrs::Primary.accepts(role), !is_standby);
        prop_assert_eq!(SessionAttrs::Standby.accepts(role), is_standby);
        let passes: Vec<bool> =
            SessionAttrs::PreferStandby.passes().iter().map(|pass| pass.accepts(role)).collect();
        prop_assert_eq!(passes, [is_standby, true]);
    }
}

#[test]
fn a_fleet_spreads_over_its_hosts() {
    let mut firsts = [0; 3];
    for draw in 0..3_000_u64 {
        firsts[SessionAttrs::Any.order(3, draw.wrapping_mul(0x9E37_79B9_7F4A_7C15), None)[0]] += 1;
    }
    assert!(firsts.iter().all(|count| (800..1_200).contains(count)), "{firsts:?}");
}
