//! Who on the machine spent CPU time, as the kernel counts it.

use std::collections::BTreeMap;
use std::fs;

/// `USER_HZ`, as in [`crate::response_bench::usage`].
const TICKS: f64 = 100.0;

/// Whose programs are told apart, by the beginning of their names; what they have started and has ended is theirs.
const PROGRAMS: [&str; 7] =
    ["tourniquet-oper", "tourniquet-agen", "kube-apiserver", "kubelet", "containerd", "node", "measure_evidenc"];

/// CPU time in seconds, by program.
pub type Spent = BTreeMap<&'static str, f64>;

/// What was spent by now. A process that ends in between is counted by whoever waited for it: the agent's captures by `containerd-shim`, which is `containerd`'s here.
pub fn spent() -> Spent {
    let mut spent = Spent::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok) {
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((name, fields)) = stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')')) else { continue };
        let Some(program) = PROGRAMS.into_iter().find(|program| name.starts_with(program)) else { continue };
        // State is the first; utime, stime, and those of children that were waited for, from the 12th on.
        let ticks = fields.split_whitespace().skip(11).take(4).filter_map(|field| field.parse::<f64>().ok());
        *spent.entry(program).or_default() += ticks.sum::<f64>() / TICKS;
    }
    spent
}

/// What was spent since.
pub fn since(before: &Spent) -> Spent {
    let now = spent();
    now.into_iter().map(|(name, all)| (name, (all - before.get(name).copied().unwrap_or_default()).max(0.0))).collect()
}
