//! A temporary server of MySQL 9, which `tests/run` unpacks into `target/mysql`: it runs by the loader and the libraries
//! that belong to it.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use sqlx::{AssertSqlSafe, Connection as _, MySqlConnection};
use tempfile::TempDir;

use super::swarm::{DEADLINE, wait_within};

pub(crate) struct MySql9 {
    directory: TempDir,
    child: Child,
}

impl MySql9 {
    pub(crate) fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("rs").tempdir_in("/tmp").unwrap();
        give_away(directory.path());
        let made = command(directory.path()).arg("--initialize-insecure").output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let child = run(directory.path());
        Self { directory, child }
    }

    /// Stops the server and starts it again: it forgets the digests of passwords.
    pub(crate) fn restart(&mut self) {
        self.stop();
        self.child = run(self.directory.path());
    }

    fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub(crate) fn socket(&self) -> String {
        self.directory.path().join("sock").display().to_string()
    }

    /// The address of a database, as a user who has no password.
    pub(crate) fn address(&self, database: &str) -> String {
        format!("mysql://root@localhost/{database}?socket={}", self.socket())
    }

    /// Runs statements as the highest user, who has no password.
    pub(crate) async fn run(&self, sql: &str) {
        let address = format!("{}&ssl-mode=disabled", self.address("mysql"));
        let mut external = MySqlConnection::connect(&address).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut external).await.unwrap();
        external.close().await.unwrap();
    }
}

impl Drop for MySql9 {
    fn drop(&mut self) {
        self.stop();
    }
}

fn id(args: &[&str]) -> u32 {
    String::from_utf8_lossy(&Command::new("id").args(args).output().unwrap().stdout).trim().parse().unwrap()
}

fn give_away(directory: &Path) {
    if id(&["-u"]) == 0 {
        std::os::unix::fs::chown(directory, Some(id(&["-u", "mysql"])), Some(id(&["-g", "mysql"]))).unwrap();
    }
}

fn command(directory: &Path) -> Command {
    use std::os::unix::process::CommandExt as _;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/mysql").canonicalize().unwrap();
    let root = root.display();
    let mut command = Command::new(format!("{root}/usr/lib64/ld-linux-x86-64.so.2"));
    let libraries = ["usr/lib/x86_64-linux-gnu", "usr/lib/mysql/private", "lib/x86_64-linux-gnu"];
    let libraries = libraries.map(|path| format!("{root}/{path}")).join(":");
    command.args(["--library-path", &libraries, &format!("{root}/usr/sbin/mysqld"), "--no-defaults"]).args([
        format!("--datadir={}/data", directory.display()),
        format!("--socket={}/sock", directory.display()),
        format!("--pid-file={}/pid", directory.display()),
        format!("--lc-messages-dir={root}/usr/share/mysql"),
        format!("--character-sets-dir={root}/usr/share/mysql/charsets"),
        format!("--plugin-dir={root}/usr/lib/mysql/plugin"),
        "--secure-file-priv=NULL".to_owned(),
    ]);
    if id(&["-u"]) == 0 {
        command.uid(id(&["-u", "mysql"])).gid(id(&["-g", "mysql"]));
    }
    command.stdin(Stdio::null()).current_dir(directory);
    command
}

fn run(directory: &Path) -> Child {
    let log = std::fs::File::create(directory.join("log")).unwrap();
    let _ = std::fs::remove_file(directory.join("sock"));
    let mut command = command(directory);
    command.args(["--skip-networking", "--mysqlx=OFF"]).stdout(Stdio::null()).stderr(log);
    let child = command.spawn().unwrap();
    wait_within(DEADLINE * 3, "MySQL's socket", || {
        std::os::unix::net::UnixStream::connect(directory.join("sock")).ok()
    });
    child
}
