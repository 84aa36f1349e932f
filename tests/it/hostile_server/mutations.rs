//! A correct conversation with a real server, repeated with random changes to the server's bytes.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rulesyncd::store::{Database, RuleStore as _, quiet_driver_panics};

use crate::faults::chance::Chance;
use crate::faults::number;
use crate::support::databases::{config, made, system_clock};
use crate::support::forged::resident;
use crate::support::rules::rule_row;
use crate::support::servers::{Kind, Server};

/// Conversations that run at the same time.
const LANES: u64 = 12;

/// How long to wait for a client that has sent nothing, because it waits for what never comes.
const TIME_LIMIT: Duration = Duration::from_millis(40);

/// No try takes longer, even on a busy machine.
const LONGEST: Duration = Duration::from_secs(60);

/// The server's bytes, by what they answer.
type Conversation = Vec<Vec<u8>>;

fn socket_name(kind: Kind) -> &'static str {
    match kind {
        Kind::MariaDb => "sock",
        Kind::Postgres => ".s.PGSQL.5432",
    }
}

fn address(kind: Kind, directory: &Path) -> String {
    let directory = directory.display();
    match kind {
        Kind::MariaDb => format!("mysql://root@/rules?socket={directory}/sock"),
        Kind::Postgres => format!("postgresql://postgres@/rules?host={directory}"),
    }
}

/// What a worker's first poll receives from a real server.
async fn recorded(kind: Kind, server: &Server) -> Conversation {
    let directory = tempfile::Builder::new().prefix("rs").tempdir_in("/tmp").unwrap();
    let listener = UnixListener::bind(directory.path().join(socket_name(kind))).unwrap();
    let (real, conversations) = (server.path().join(socket_name(kind)), Arc::default());
    let kept: Arc<Mutex<Vec<Arc<Mutex<Conversation>>>>> = Arc::clone(&conversations);
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let conversation = Arc::new(Mutex::new(vec![Vec::new()]));
            kept.lock().unwrap().push(Arc::clone(&conversation));
            let (client, real) = (client.unwrap(), real.clone());
            std::thread::spawn(move || record(client, &real, conversation));
        }
    });
    let database = Database::open(&config(&address(kind, directory.path())), system_clock()).await.unwrap();
    // The first connection to PostgreSQL finds out whether a session is its own.
    assert_eq!(database.load_compiled().await.unwrap().len(), 3);
    conversations.lock().unwrap().clear();
    assert_eq!(database.load_compiled().await.unwrap().len(), 3);
    let conversations = conversations.lock().unwrap();
    let [conversation] = &conversations[..] else { panic!("a worker has one connection") };
    let mut conversation = conversation.lock().unwrap().clone();
    // Each client marks its session anew, and expects its mark.
    let mark = conversation.iter().find_map(|answer| after(answer, b"f off ").map(<[u8]>::to_vec));
    if let Some(mark) = mark {
        conversation.iter_mut().for_each(|answer| replace(answer, &mark, &[b'?'; MARK]));
    }
    conversation
}

/// The bytes of the mark of a session.
const MARK: usize = 32;

/// The mark that follows these bytes.
fn after<'b>(bytes: &'b [u8], before: &[u8]) -> Option<&'b [u8]> {
    let at = bytes.windows(before.len()).position(|window| window == before)? + before.len();
    bytes.get(at..at + MARK)
}

fn replace(bytes: &mut [u8], old: &[u8], new: &[u8]) {
    while let Some(at) = bytes.windows(old.len()).position(|window| window == old) {
        bytes[at..at + old.len()].copy_from_slice(new);
    }
}

fn record(mut client: UnixStream, real: &PathBuf, conversation: Arc<Mutex<Conversation>>) {
    let mut server = UnixStream::connect(real).unwrap();
    let (mut answers, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    let answered = Arc::clone(&conversation);
    std::thread::spawn(move || {
        let mut bytes = [0; 16 << 10];
        while let Ok(count @ 1..) = answers.read(&mut bytes) {
            answered.lock().unwrap().last_mut().unwrap().extend(&bytes[..count]);
            if to.write_all(&bytes[..count]).is_err() {
                return;
            }
        }
    });
    let mut bytes = [0; 16 << 10];
    while let Ok(count @ 1..) = client.read(&mut bytes) {
        conversation.lock().unwrap().push(Vec::new());
        server.write_all(&bytes[..count]).unwrap();
    }
}

/// Sends the current conversation to each client.
struct Replay {
    directory: tempfile::TempDir,
    conversation: Arc<Mutex<Conversation>>,
}

impl Replay {
    fn new(kind: Kind, conversation: &Conversation) -> Self {
        let directory = tempfile::Builder::new().prefix("rs").tempdir_in("/tmp").unwrap();
        let listener = UnixListener::bind(directory.path().join(socket_name(kind))).unwrap();
        let conversation = Arc::new(Mutex::new(conversation.clone()));
        let replayed = Arc::clone(&conversation);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, conversation) = (client.unwrap(), replayed.lock().unwrap().clone());
                std::thread::spawn(move || replay(client, &conversation));
            }
        });
        Self { directory, conversation }
    }
}

fn replay(mut client: UnixStream, conversation: &Conversation) -> io::Result<()> {
    client.set_read_timeout(Some(TIME_LIMIT))?;
    client.set_write_timeout(Some(LONGEST))?;
    client.write_all(&conversation[0])?;
    let (mut bytes, mut mark) = ([0; 64 << 10], vec![b'!'; MARK]);
    for answer in &conversation[1..] {
        let count = client.read(&mut bytes)?;
        if count == 0 {
            return Ok(());
        }
        if let Some(own) = after(&bytes[..count], b"'rulesyncd.session', '") {
            mark = own.to_vec();
        }
        let mut answer = answer.clone();
        replace(&mut answer, &[b'?'; MARK], &mark);
        client.write_all(&answer)?;
    }
    Ok(())
}

/// Changes a few of the server's bytes.
fn mutated(conversation: &Conversation, chance: &mut Chance) -> Conversation {
    const BYTES: [u8; 8] = [0, 1, 0x7f, 0x80, 0xfb, 0xfc, 0xfe, 0xff];
    let mut mutated = conversation.clone();
    let index = |chance: &mut Chance, end: usize| {
        usize::try_from(chance.below(u64::try_from(end.max(1)).unwrap())).unwrap()
    };
    for _ in 0..=chance.below(4) {
        let (one, other) = (index(chance, mutated.len()), index(chance, mutated.len()));
        let length = mutated[one].len();
        if length == 0 {
            continue;
        }
        // The lengths are at the beginnings.
        let at = if chance.below(2) == 0 { index(chance, length.min(12)) } else { index(chance, length) };
        let end = at + index(chance, (length - at).min(40)) + 1;
        let end = end.min(length);
        match chance.below(9) {
            0 => mutated[one][at] ^= 1 << chance.below(8),
            1 => mutated[one][at] = *chance.pick(&BYTES),
            2 => {
                let byte = *chance.pick(&BYTES);
                mutated[one][at..end].fill(byte);
            }
            3 => drop(mutated[one].drain(at..end)),
            4 => {
                let noise: Vec<u8> =
                    (0..=chance.below(20)).map(|_| chance.below(256).to_le_bytes()[0]).collect();
                mutated[one].splice(at..at, noise);
            }
            5 => {
                let again = mutated[one][at..end].to_vec();
                mutated[one].splice(at..at, again);
            }
            6 => mutated[one].truncate(at),
            7 => mutated.swap(one, other),
            _ => {
                let again = mutated[other].clone();
                mutated[one].splice(at..at, again);
            }
        }
    }
    mutated
}

/// Each of so many changed conversations ends, with rules or with an error, and the unchanged one is understood after
/// all of them.
#[expect(clippy::print_stdout, reason = "the seed, should it fail")]
async fn every_conversation_ends(kind: Kind) {
    quiet_driver_panics();
    let server = Server::start(kind, &[]).await;
    let address_of_server = server.create("rules").await;
    let database = made(&address_of_server, system_clock()).await;
    let mut session = database.try_lock().await.unwrap().unwrap();
    let writes: Vec<_> = [("R1", 1), ("R2", 1), ("R3", 7)]
        .map(|(id, version)| rulesyncd::store::RuleWrite::Upsert(rule_row(id, version)))
        .into();
    session.apply(writes).await.unwrap();
    session.close().await;
    let conversation = Arc::new(recorded(kind, &server).await);
    assert!(conversation.len() > 5, "{conversation:?}");

    let (seed, tries) = (number("SEED", 1), number("MUTATIONS", 10_000));
    println!("{kind:?}: seed {seed}, {tries} mutations of {} answers", conversation.len());
    let begun = Instant::now();
    let lanes: Vec<_> = (0..LANES)
        .map(|lane| {
            let (conversation, replay) = (Arc::clone(&conversation), Replay::new(kind, &conversation));
            tokio::spawn(async move {
                let mut config = config(&address(kind, replay.directory.path()));
                config.connect_timeout = Duration::from_millis(500);
                let database = Database::open(&config, system_clock()).await.unwrap();
                let (mut outcomes, mut chance) = ([0_u64; 2], Chance::new(seed, lane));
                for number in 0..tries / LANES + 1 {
                    *replay.conversation.lock().unwrap() = mutated(&conversation, &mut chance);
                    let tried = tokio::time::timeout(LONGEST, database.load_compiled()).await;
                    let ended =
                        tried.unwrap_or_else(|_| panic!("seed {seed}, lane {lane}, try {number}: no end"));
                    outcomes[usize::from(ended.is_ok())] += 1;
                }
                *replay.conversation.lock().unwrap() = Conversation::clone(&conversation);
                let deadline = Instant::now() + LONGEST;
                loop {
                    match database.load_compiled().await {
                        Ok(rules) if rules.len() == 3 => return outcomes,
                        other => assert!(Instant::now() < deadline, "seed {seed}, lane {lane}: {other:?}"),
                    }
                }
            })
        })
        .collect();
    let mut outcomes = [0; 2];
    for lane in lanes {
        let of_lane = lane.await.unwrap();
        outcomes = [outcomes[0] + of_lane[0], outcomes[1] + of_lane[1]];
        let memory = resident(std::process::id());
        assert!(memory < 512 * 1024, "seed {seed}: {memory} KiB");
    }
    println!("{kind:?}: {} errors, {} answers in {:?}", outcomes[0], outcomes[1], begun.elapsed());
    assert!(outcomes[0] + outcomes[1] >= tries && outcomes[0] > tries / 4, "{outcomes:?}");
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn every_mutation_of_a_conversation_with_postgres_ends() {
    every_conversation_ends(Kind::Postgres).await;
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn every_mutation_of_a_conversation_with_mariadb_ends() {
    every_conversation_ends(Kind::MariaDb).await;
}
