//! How long it takes. `cargo test --release --package tourniquet-agent --test speed -- --ignored --nocapture`

#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests: a panic is a failed test")]

mod lab;

use std::path::Path;
use std::time::{Duration, Instant};

use tourniquet_agent::cut::{Hooks, cut, lift, verify};
use tourniquet_agent::pods::cgroup::Hierarchy;
use tourniquet_agent::pods::{find, node_network};

use crate::lab::Lab;

const ROUNDS: usize = 100;

struct Times(&'static str, Vec<Duration>);

impl Times {
    fn take<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        self.1.push(start.elapsed());
        result
    }

    fn print(mut self) {
        self.1.sort_unstable();
        let at = |part: usize| self.1[self.1.len() * part / 100];
        println!("{:<32} median {:>10.1?}   p99 {:>10.1?}   n {}", self.0, at(50), at(99), self.1.len());
    }
}

#[test]
#[ignore = "a measurement, to be run alone and with --release"]
fn cut_and_lift() {
    for hooks in [Hooks::Netdev, Hooks::Inet] {
        println!("{hooks:?}");
        let lab = Lab::new();
        let allow = lab.allow();
        let mut making = Times("cut and read back", Vec::new());
        let mut again = Times("cut again, nothing to do", Vec::new());
        let mut reading = Times("verify", Vec::new());
        let mut lifting = Times("lift", Vec::new());
        for _ in 0..ROUNDS {
            assert!(making.take(|| cut(&lab.pod, &allow, hooks)).expect("the cut").changed);
            assert!(!again.take(|| cut(&lab.pod, &allow, hooks)).expect("the cut").changed);
            reading.take(|| verify(&lab.pod, &allow, hooks)).expect("read");
            assert!(lifting.take(|| lift(&lab.pod)).expect("lifted"));
            // The kernel frees what was removed after an RCU grace period, and begins no other transaction before.
            std::thread::sleep(Duration::from_millis(40));
        }
        for times in [making, again, reading, lifting] {
            times.print();
        }
    }
    let labs: Vec<Lab> = (0..50).map(|_| Lab::new()).collect();
    let (mut first, mut last) =
        (Times("50 pods at once, each", Vec::new()), Times("50 pods at once, the last", Vec::new()));
    for _ in 0..ROUNDS / 10 {
        let start = Instant::now();
        let made: Vec<Duration> = std::thread::scope(|scope| {
            let work = |lab: &Lab| {
                cut(&lab.pod, &lab.allow(), Hooks::Netdev).expect("the cut");
                start.elapsed()
            };
            let threads: Vec<_> = labs.iter().map(|lab| scope.spawn(move || work(lab))).collect();
            threads.into_iter().map(|thread| thread.join().expect("the cut")).collect()
        });
        last.1.extend(made.iter().max());
        first.1.extend(made);
        for lab in &labs {
            assert!(lift(&lab.pod).expect("lifted"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    first.print();
    last.print();
    let host = node_network(Path::new("/proc")).expect("the node's namespace").id();
    let mut finding = Times("scan of this machine's processes", Vec::new());
    for _ in 0..ROUNDS {
        let found = finding.take(|| find(Path::new("/proc"), "00000000", &Hierarchy::default(), host));
        assert!(found.is_err());
    }
    finding.print();
    let processes = std::fs::read_dir("/proc").expect("proc").flatten();
    let processes = processes.filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok()).count();
    println!("{processes} processes");
}
