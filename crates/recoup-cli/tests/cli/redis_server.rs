//! A real Redis: filled, thinned out, reclaimed, and every remaining value compared.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use recoup_sys::cgroup::Cgroup;
use recoup_testkit::workload::{charge, own_cgroup};
use recoup_testkit::{HostSetting, kernel, require};
use redis::Connection;

use crate::document;

/// Keys that are set; of 400 consecutive ones 40 stay.
const KEYS: u64 = 400_000;
const RUN: u64 = 400;
const KEPT: u64 = 40;
/// Commands sent at once.
const BATCH: usize = 2000;

struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start_in(cgroup: &Cgroup) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("its address").port();
        drop(free);
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(["--appendonly", "no", "--disable-thp", "no", "--dir", "/tmp"])
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server starts");
        let server = Self { child, port };
        cgroup.add(server.pid()).expect("it can be moved");
        server
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid")
    }

    fn connect(&self) -> Connection {
        let client =
            redis::Client::open(format!("redis://127.0.0.1:{}", self.port)).expect("an address");
        for _ in 0..100 {
            match client.get_connection() {
                Ok(connection) => return connection,
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
        panic!("redis-server does not answer");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn value(key: u64) -> String {
    format!("{key:0500}")
}

fn is_kept(key: u64) -> bool {
    key % RUN < KEPT
}

/// Sends a command for each key, many at a time.
fn for_keys(
    connection: &mut Connection,
    keys: impl Iterator<Item = u64>,
    command: fn(&mut redis::Pipeline, u64),
) {
    let keys: Vec<u64> = keys.collect();
    for batch in keys.chunks(BATCH) {
        let mut pipeline = redis::pipe();
        batch.iter().for_each(|&key| command(&mut pipeline, key));
        pipeline.exec(connection).expect("redis obeys");
    }
}

#[test]
fn a_thinned_out_redis_gives_its_memory_back_and_keeps_every_value() {
    require!(kernel::is_root(), "root");
    let installed = Command::new("redis-server").arg("--version").output().is_ok();
    require!(installed, "redis-server (cargo xtask setup)");
    let _thp = HostSetting::huge_pages("always");
    let cgroup = own_cgroup("redis");
    require!(cgroup.is_some(), "a memory cgroup of its own");
    let cgroup = cgroup.expect("just looked");
    let server = Server::start_in(&cgroup);
    let mut connection = server.connect();
    for_keys(&mut connection, 0..KEYS, |pipeline, key| {
        pipeline.set(key, value(key)).ignore();
    });
    let filled = charge(&cgroup);
    for_keys(&mut connection, (0..KEYS).filter(|&key| !is_kept(key)), |pipeline, key| {
        pipeline.del(key).ignore();
    });
    redis::cmd("MEMORY").arg("PURGE").exec(&mut connection).expect("redis obeys");

    let thinned = charge(&cgroup);
    let document = document(&["reclaim", "--json", "--pid", &server.pid().to_string()]);
    let reclaimed = charge(&cgroup);
    let stuck = document["totals"]["stuck"]["thp_holes_bytes"].as_u64().expect("a number");
    println!(
        "redis charged {filled} filled, {thinned} thinned, {reclaimed} reclaimed: {stuck} stuck"
    );
    assert!(stuck > filled / 4, "a lot of it is stuck: {stuck} of {filled}");
    assert!((thinned - reclaimed) * 100 >= stuck * 95, "{thinned} -> {reclaimed}");

    let kept: Vec<u64> = (0..KEYS).filter(|&key| is_kept(key)).collect();
    for batch in kept.chunks(BATCH) {
        let values: Vec<String> =
            redis::cmd("MGET").arg(batch).query(&mut connection).expect("redis answers");
        assert!(batch.iter().zip(&values).all(|(&key, found)| *found == value(key)));
    }
    let count: u64 = redis::cmd("DBSIZE").query(&mut connection).expect("redis answers");
    assert_eq!(count, KEYS / RUN * KEPT);
}
