//! The filter of devices on cgroup v2: a program that the kernel runs for each `open` and `mknod` of a device in a container
//! (`BPF_PROG_TYPE_CGROUP_DEVICE`). It decides as v1's controller does by the rules that it is told.

use serde::{Deserialize, Serialize};

use super::number_of;
use crate::types::{ContainerConfig, Device};

/// What the kernel calls kinds of devices, and what is done with them.
const BLOCK: u32 = 1;
const CHARACTER: u32 = 2;
const MAKE: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;

/// What every container may use: null, zero, full, random, urandom, tty, console, ptmx and tun.
const STANDARD: [(u32, u32); 9] = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (10, 200)];
/// The major number of terminals.
const TERMINALS: u32 = 136;

/// Codes of instructions, and registers that keep a value from the beginning to the end.
const LOAD_WORD: u8 = 0x61;
const COPY: u8 = 0xbc;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const SET: u8 = 0xb7;
const UNLESS_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const ACCESS: u8 = 2;
const KIND: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// A program for the kernel, as it lies in the container's bundle.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Filter {
    /// `struct bpf_insn`, one number each.
    pub(crate) program: Vec<u64>,
    /// The container must not start where the kernel does not take it.
    pub(crate) needed: bool,
}

/// What lets a container reach any device of the node by itself, unless a filter keeps it from that: making a node for it, or mounting
/// the kernel's own directory of devices.
const REACHING: [&str; 2] = ["CAP_MKNOD", "CAP_SYS_ADMIN"];

/// What may be done with some devices; all else may not.
struct Rule {
    kind: u32,
    major: Option<u32>,
    minor: Option<u32>,
    access: u32,
}

/// The filter of a container with these capabilities, if it has one: who is privileged may use all devices of the node.
pub(crate) fn of(config: &ContainerConfig, capabilities: &[String]) -> Option<Filter> {
    let given = |device: &Device| {
        // One that is gone can't be used; `given` tells of it.
        let (major, minor) = number_of(&device.host_path).ok()?;
        let access = if device.read_only { READ } else { READ | WRITE };
        Some(Rule { kind: BLOCK, major: Some(major), minor: Some(minor), access })
    };
    (!config.privileged).then(|| Filter {
        program: compile(standard().into_iter().chain(config.devices.iter().filter_map(given))),
        // Root passes by a file's mode.
        needed: config.devices.iter().any(|device| device.read_only)
            || capabilities.iter().any(|held| REACHING.contains(&held.as_str())),
    })
}

fn standard() -> Vec<Rule> {
    // A device that was made can't be used for that alone.
    let made = |kind| Rule { kind, major: None, minor: None, access: MAKE };
    let whole =
        |major, minor| Rule { kind: CHARACTER, major: Some(major), minor, access: MAKE | READ | WRITE };
    let mut rules = vec![made(BLOCK), made(CHARACTER), whole(TERMINALS, None)];
    rules.extend(STANDARD.map(|(major, minor)| whole(major, Some(minor))));
    rules
}

fn compile(rules: impl Iterator<Item = Rule>) -> Vec<u64> {
    // `struct bpf_cgroup_dev_ctx`: the access in the upper half of a word whose lower half is the kind, then both numbers.
    let mut program = vec![
        instruction(LOAD_WORD, ACCESS, CONTEXT, 0, 0),
        instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD_WORD, MINOR, CONTEXT, 8, 0),
        instruction(COPY, KIND, ACCESS, 0, 0),
        instruction(AND, KIND, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, ACCESS, 0, 0, 16),
    ];
    for rule in rules {
        // What is asked for beyond what the rule allows.
        let beyond = (MAKE | READ | WRITE) & !rule.access;
        let mut steps =
            vec![(COPY, RESULT, ACCESS, 0), (AND, RESULT, 0, beyond), (UNLESS_EQUAL, RESULT, 0, 0)];
        steps.push((UNLESS_EQUAL, KIND, 0, rule.kind));
        steps.extend(rule.major.map(|major| (UNLESS_EQUAL, MAJOR, 0, major)));
        steps.extend(rule.minor.map(|minor| (UNLESS_EQUAL, MINOR, 0, minor)));
        steps.extend([(SET, RESULT, 0, 1), (EXIT, 0, 0, 0)]);
        // Where it does not fit, the next rule is behind what is left of this one.
        let left = (0..steps.len() as u16).rev();
        program.extend(steps.iter().zip(left).map(|(&(code, to, from, value), left)| {
            instruction(code, to, from, if code == UNLESS_EQUAL { left } else { 0 }, value)
        }));
    }
    program.extend([instruction(SET, RESULT, 0, 0, 0), instruction(EXIT, 0, 0, 0, 0)]);
    program
}

fn instruction(code: u8, to: u8, from: u8, offset: u16, value: u32) -> u64 {
    let registers = u64::from(from << 4 | to);
    let word = u64::from(code) | registers << 8 | u64::from(offset) << 16 | u64::from(value) << 32;
    // The kernel reads it in parts, from the first byte on.
    u64::from_ne_bytes(word.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel does; a jump may lead to an instruction of it only, which indexing makes sure of.
    fn allows(program: &[u64], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let mut registers = [0u32; 6];
        let mut at = 0;
        loop {
            let word = program[at].to_le_bytes();
            let (to, from) = (usize::from(word[1] & 15), usize::from(word[1] >> 4));
            let offset = u16::from_le_bytes([word[2], word[3]]);
            let value = u32::from_le_bytes([word[4], word[5], word[6], word[7]]);
            at += 1;
            match word[0] {
                LOAD_WORD => registers[to] = [access << 16 | kind, major, minor][usize::from(offset / 4)],
                COPY => registers[to] = registers[from],
                AND => registers[to] &= value,
                SHIFT_RIGHT => registers[to] >>= value,
                SET => registers[to] = value,
                UNLESS_EQUAL if registers[to] != value => at += usize::from(offset),
                UNLESS_EQUAL => {}
                EXIT => return registers[0] == 1,
                other => panic!("no such instruction: {other:#x}"),
            }
        }
    }

    #[test]
    fn a_container_may_use_what_it_is_given_and_what_all_have() {
        let disk = |minor, access| Rule { kind: BLOCK, major: Some(7), minor: Some(minor), access };
        let program = compile(standard().into_iter().chain([disk(0, READ), disk(1, READ | WRITE)]));
        let may = |kind, access, major, minor| allows(&program, kind, access, major, minor);
        assert!(may(CHARACTER, READ | WRITE, 1, 3), "/dev/null");
        assert!(may(CHARACTER, READ | WRITE, 136, 9), "a terminal");
        assert!(!may(CHARACTER, READ, 1, 1), "the machine's memory");
        assert!(!may(BLOCK, READ, 1, 3), "a disk with the numbers of /dev/null");
        assert!(may(BLOCK, MAKE, 8, 0) && !may(BLOCK, READ, 8, 0) && !may(BLOCK, MAKE | READ, 8, 0));
        assert!(may(BLOCK, READ, 7, 0) && !may(BLOCK, WRITE, 7, 0) && !may(BLOCK, READ | WRITE, 7, 0));
        assert!(may(BLOCK, READ | WRITE, 7, 1) && !may(BLOCK, READ, 7, 2));
        assert!(!allows(&compile(std::iter::empty()), CHARACTER, READ, 1, 3));
    }

    #[test]
    fn who_is_privileged_has_no_filter_and_who_reaches_devices_needs_one() {
        let config = |privileged| ContainerConfig { privileged, ..ContainerConfig::default() };
        assert!(of(&config(true), &[]).is_none());
        let needed = |held: &str| of(&config(false), &[held.to_owned()]).unwrap().needed;
        assert!(!needed("CAP_CHOWN") && needed("CAP_MKNOD") && needed("CAP_SYS_ADMIN"));
    }
}
