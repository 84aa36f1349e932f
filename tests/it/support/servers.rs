//! Temporary database servers: in a directory of their own, on a Unix socket, as an unprivileged user; they end with
//! the test, however it ends.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sqlx::{Connection, MySqlConnection, PgConnection};
use tempfile::TempDir;

use super::databases::ExternalClient;

mod addresses;

/// The server to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    MariaDb,
    Postgres,
}

/// A server that runs, or is stopped for a while.
pub(crate) struct Server {
    kind: Kind,
    directory: TempDir,
    options: Vec<String>,
    environment: Vec<(String, String)>,
    port: u16,
    child: Option<Child>,
}

/// The options of a MariaDB server that has replicas, without its port.
pub(crate) const PRIMARY: [&str; 3] = ["--log-bin=log-bin", "--server-id=1", "--bind-address=127.0.0.1"];

/// Ends the server when this end of the pipe closes, even if the test is killed.
const UNTIL_THE_PIPE_CLOSES: &str =
    r#""$@" </dev/null & server=$!; read -r _; kill -s QUIT $server; wait $server"#;

impl Server {
    /// Creates and starts a server with these additional options.
    pub(crate) async fn start(kind: Kind, options: &[&str]) -> Self {
        Self::start_in(kind, options, Vec::new()).await
    }

    /// The options with which it is started again.
    pub(crate) fn set_options(&mut self, options: Vec<String>) {
        self.options = options;
    }

    /// With this in the server's environment.
    pub(crate) async fn start_in(kind: Kind, options: &[&str], environment: Vec<(String, String)>) -> Self {
        // Short: a socket's path has at most 107 bytes.
        let directory = tempfile::Builder::new().prefix("rs").tempdir_in("/tmp").unwrap();
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let mut server = Self { kind, directory, options, environment, port: 5432, child: None };
        server.give_away();
        let data = format!("{}/data", server.path().display());
        // MariaDB removes what others left in the directory for temporary files: each has its own.
        let temporary = format!("{}/tmp", server.path().display());
        assert!(server.command("mkdir").arg(&temporary).status().unwrap().success());
        let made = match kind {
            Kind::MariaDb => server
                .command("mariadb-install-db")
                .args([
                    "--no-defaults",
                    &format!("--datadir={data}"),
                    &format!("--tmpdir={temporary}"),
                    "--auth-root-authentication-method=normal",
                    "--skip-test-db",
                ])
                .output(),
            Kind::Postgres => server
                .command(&postgres("initdb"))
                .args(["-D", &data, "-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C"])
                .output(),
        };
        let made = made.unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        server.go_on().await;
        server
    }

    /// Starts a server that repeats what `primary` does, and takes no writes. MariaDB's primary needs [`PRIMARY`] and a port
    /// on the loopback. With this in its environment.
    pub(crate) async fn replica_of(primary: &Self, port: u16, environment: Vec<(String, String)>) -> Self {
        if primary.kind == Kind::MariaDb {
            let options = ["--server-id=2", "--read-only=ON"];
            let replica = Self::start_in(Kind::MariaDb, &options, environment).await;
            replica.repeat(primary, port).await;
            return replica;
        }
        let directory = tempfile::Builder::new().prefix("rs").tempdir_in("/tmp").unwrap();
        let (kind, port) = (primary.kind, primary.port);
        let mut replica = Self { kind, directory, options: Vec::new(), environment, port, child: None };
        replica.give_away();
        let data = format!("{}/data", replica.path().display());
        let copied = replica
            .command(&postgres("pg_basebackup"))
            .args(["-D", &data, "-h", &primary.path().display().to_string(), "-p", &port.to_string()])
            .args(["-U", "postgres", "-R", "-c", "fast", "--no-sync"])
            .output()
            .unwrap();
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        replica.go_on().await;
        replica
    }

    /// Makes a new MariaDB server repeat what `primary` does, from its first transaction on.
    pub(crate) async fn repeat(&self, primary: &Self, port: u16) {
        let user = "CREATE USER IF NOT EXISTS repeats@'%'; GRANT REPLICATION SLAVE ON *.* TO repeats@'%'";
        primary.run("", user).await.unwrap();
        let follow = format!(
            "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}, MASTER_USER='repeats', \
             MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1; START SLAVE"
        );
        self.run("", &follow).await.unwrap();
    }

    /// Makes a replica get nothing more.
    pub(crate) async fn cut_off(&self) {
        let statements: &[&str] = match self.kind {
            Kind::Postgres => &["ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()"],
            Kind::MariaDb => &["STOP SLAVE IO_THREAD"],
        };
        for statement in statements {
            self.run("", statement).await.unwrap();
        }
        if self.kind == Kind::Postgres {
            let mut external = self.external().await;
            let receivers = "SELECT count(*)::text FROM pg_stat_wal_receiver";
            while external.text(receivers).await.as_deref() != Some("0") {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Makes a replica a primary that takes writes.
    pub(crate) async fn promote(&self) {
        match self.kind {
            Kind::MariaDb => {
                self.run("", "STOP SLAVE; RESET SLAVE ALL; SET GLOBAL read_only = OFF").await.unwrap();
            }
            Kind::Postgres => {
                let data = self.path().join("data");
                let mut promote = self.command(&postgres("pg_ctl"));
                let promoted = promote.arg("promote").arg("-w").arg("-D").arg(data).output().unwrap();
                assert!(promoted.status.success(), "{}", String::from_utf8_lossy(&promoted.stderr));
            }
        }
    }

    pub(crate) const fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    fn user(&self) -> &'static str {
        match self.kind {
            Kind::MariaDb => "mysql",
            Kind::Postgres => "postgres",
        }
    }

    /// Gives the directory to the server's user, where the test may do that.
    fn give_away(&self) {
        if let Some((uid, gid)) = self.ids() {
            std::os::unix::fs::chown(self.path(), Some(uid), Some(gid)).unwrap();
        }
    }

    /// The server's user and group; `None` where the test runs as someone who cannot change to it.
    pub(super) fn ids(&self) -> Option<(u32, u32)> {
        let id = |args: &[&str]| -> u32 {
            let found = Command::new("id").args(args).output().unwrap().stdout;
            String::from_utf8_lossy(&found).trim().parse().unwrap()
        };
        (id(&["-u"]) == 0).then(|| (id(&["-u", self.user()]), id(&["-g", self.user()])))
    }

    fn command(&self, program: &str) -> Command {
        use std::os::unix::process::CommandExt as _;
        let mut command = Command::new(program);
        command.current_dir(self.path());
        if let Some((uid, gid)) = self.ids() {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Starts the server again, and waits until it answers.
    pub(crate) async fn go_on(&mut self) {
        let directory = self.path().display().to_string();
        let mut command = self.command("sh");
        command.args(["-c", UNTIL_THE_PIPE_CLOSES, "sh"]);
        match self.kind {
            Kind::MariaDb => command.args([
                "mariadbd",
                "--no-defaults",
                &format!("--datadir={directory}/data"),
                &format!("--tmpdir={directory}/tmp"),
                &format!("--socket={directory}/sock"),
                &format!("--pid-file={directory}/pid"),
                "--innodb-flush-log-at-trx-commit=0",
            ]),
            Kind::Postgres => command
                .args([&postgres("postgres"), "-D", &format!("{directory}/data"), "-k", &directory])
                .args(["-c", "fsync=off"]),
        };
        let networked = self
            .options
            .iter()
            .any(|option| option.contains("bind-address") || option.contains("listen_addresses"));
        if !networked {
            command.args(match self.kind {
                Kind::MariaDb => &["--skip-networking"][..],
                Kind::Postgres => &["-h", ""][..],
            });
        }
        let log = std::fs::File::create(self.path().join("log")).unwrap();
        command
            .args(&self.options)
            .envs(self.environment.clone())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log);
        self.child = Some(command.spawn().unwrap());
        let deadline = Instant::now() + Duration::from_secs(60);
        while let Err(error) = self.run("", "SELECT 1").await {
            let mut log = String::new();
            std::fs::File::open(self.path().join("log")).unwrap().read_to_string(&mut log).unwrap();
            assert!(Instant::now() < deadline, "{error}: {log}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Starts the server again with other options, at another port.
    pub(crate) async fn go_on_with(&mut self, options: Vec<String>, port: u16) {
        (self.options, self.port) = (options, port);
        self.go_on().await;
    }

    /// Puts a file that only the server's user can read beside the server's own.
    pub(crate) fn put(&self, name: &str, content: &[u8]) {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        if let Some((uid, gid)) = self.ids() {
            std::os::unix::fs::chown(&path, Some(uid), Some(gid)).unwrap();
        }
    }

    /// SIGSTOP to every process of the server: connections stand, and nothing answers.
    pub(crate) fn freeze(&self) {
        self.signal("STOP");
    }

    /// Lets a frozen server go on.
    pub(crate) fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, signal: &str) {
        let mut processes = vec![self.child.as_ref().unwrap().id()];
        let mut next = 0;
        while let Some(process) = processes.get(next) {
            // A process of the server may end at any moment.
            let children = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
            let children = children.unwrap_or_default();
            processes.extend(children.split_whitespace().map(|child| child.parse::<u32>().unwrap()));
            next += 1;
        }
        let is_there = |process: &&u32| Path::new(&format!("/proc/{process}")).exists();
        for process in &processes[1..] {
            let kill = Command::new("kill").args(["-s", signal, &process.to_string()]).output().unwrap();
            assert!(
                kill.status.success() || !is_there(&process),
                "{}",
                String::from_utf8_lossy(&kill.stderr)
            );
        }
    }

    /// Stops the server at once: connections break, what was committed stays.
    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.stdin.take());
            child.wait().unwrap();
        }
    }

    /// Allows logins from these addresses without a password.
    pub(crate) async fn admit(&mut self, network: &str) {
        match self.kind {
            Kind::MariaDb => {
                self.run("", "CREATE USER guest@'%'; GRANT ALL ON *.* TO guest@'%'").await.unwrap();
            }
            Kind::Postgres => {
                let path = self.path().join("data/pg_hba.conf");
                let mut rules = std::fs::read_to_string(&path).unwrap();
                rules.push_str(&format!("host all all {network} trust\n"));
                std::fs::write(path, rules).unwrap();
                self.run("", "SELECT pg_reload_conf()").await.unwrap();
            }
        }
    }

    /// Runs statements as the highest user.
    pub(crate) async fn run(&self, database: &str, sql: &str) -> Result<(), sqlx::Error> {
        let (address, sql) = (self.address(database), sqlx::AssertSqlSafe(sql.to_owned()));
        match self.kind {
            Kind::MariaDb => {
                let mut external = MySqlConnection::connect(&address).await?;
                sqlx::raw_sql(sql).execute(&mut external).await?;
                external.close().await
            }
            Kind::Postgres => {
                let mut external = PgConnection::connect(&address).await?;
                sqlx::raw_sql(sql).execute(&mut external).await?;
                external.close().await
            }
        }
    }

    /// Waits until a session of the server waits for a lock that another one holds.
    pub(crate) async fn until_a_session_is_blocked(&self) {
        let mut external = self.external().await;
        let blocked = match self.kind {
            Kind::MariaDb => {
                "SELECT CAST((SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT') + \
                 (SELECT COUNT(*) FROM information_schema.processlist WHERE state LIKE 'Waiting for table%lock') AS CHAR)"
            }
            Kind::Postgres => "SELECT COUNT(*)::text FROM pg_locks WHERE NOT granted",
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        while external.text(blocked).await.as_deref() == Some("0") {
            assert!(Instant::now() < deadline, "no session is blocked");
            // MariaDB repeats its previous answer to a question within a tenth of a second.
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    }

    async fn external(&self) -> ExternalClient {
        self.client("").await
    }

    /// Another program's connection to a database.
    pub(crate) async fn client(&self, database: &str) -> ExternalClient {
        self.client_at(&self.address(database)).await
    }

    /// The same as this user.
    pub(crate) async fn client_as(&self, user: &str, database: &str) -> ExternalClient {
        self.client_at(&self.address_as(user, database)).await
    }

    async fn client_at(&self, address: &str) -> ExternalClient {
        match self.kind {
            Kind::MariaDb => ExternalClient::MySql(MySqlConnection::connect(address).await.unwrap()),
            Kind::Postgres => ExternalClient::Postgres(PgConnection::connect(address).await.unwrap()),
        }
    }

    /// Creates a database and returns its address.
    pub(crate) async fn create(&self, database: &str) -> String {
        self.run("", &format!("CREATE DATABASE {database}")).await.unwrap();
        self.address(database)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.thaw();
        }
        self.stop();
    }
}

/// Debian keeps PostgreSQL's programs in directories by version, outside PATH.
fn postgres(program: &str) -> String {
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|versions| versions.map(|version| version.unwrap().path()).collect())
        .unwrap_or_default();
    versions.sort();
    let found = versions.pop().map(|version| version.join("bin").join(program));
    found.map_or_else(|| program.to_owned(), |path| path.display().to_string())
}
