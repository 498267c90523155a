//! The program of a filter, in the kernel's classic BPF: it loads parts of the call's description and jumps.

use super::profile::{Action, Compare, Condition, Profile, Rule};

/// One instruction: `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u16,
    pub(crate) yes: u8,
    pub(crate) no: u8,
    pub(crate) value: u32,
}

/// Loads the word at an offset of `struct seccomp_data`.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const IF_EQUAL: u16 = 0x15;
const IF_GREATER: u16 = 0x25;
const IF_GREATER_OR_EQUAL: u16 = 0x35;
const JUMP: u16 = 0x05;
const RETURN: u16 = 0x06;

/// Where the call's number, its machine and its arguments are.
const NUMBER: u32 = 0;
const MACHINE: u32 = 4;
const ARGUMENTS: u32 = 16;
/// The most that the kernel takes.
const LONGEST: usize = 4096;

#[cfg(target_arch = "x86_64")]
const THIS_MACHINE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const THIS_MACHINE: u32 = 0xc000_00b7;
/// Calls of the x32 kind have this bit; programs of that kind do not run.
const X32: u32 = 0x4000_0000;
const ENOSYS: u32 = 38;

fn instruction(code: u16, value: u32, yes: u8, no: u8) -> Instruction {
    Instruction { code, yes, no, value }
}

fn answer(action: Action) -> Instruction {
    let value = match action {
        Action::KillProcess => 0x8000_0000,
        Action::KillThread => 0,
        Action::Trap => 0x0003_0000,
        Action::Errno(number) => 0x0005_0000 | (number & 0xffff),
        Action::Log => 0x7ffc_0000,
        Action::Allow => 0x7fff_0000,
    };
    instruction(RETURN, value, 0, 0)
}

/// The program of a profile.
pub(super) fn compile(profile: &Profile) -> Result<Vec<Instruction>, String> {
    let mut program = vec![
        instruction(LOAD, MACHINE, 0, 0),
        instruction(IF_EQUAL, THIS_MACHINE, 1, 0),
        answer(Action::KillProcess),
        instruction(LOAD, NUMBER, 0, 0),
        instruction(IF_GREATER_OR_EQUAL, X32, 0, 1),
        answer(Action::Errno(ENOSYS)),
    ];
    for rule in &profile.rules {
        program.extend(compile_rule(rule)?);
    }
    program.push(answer(profile.default));
    if program.len() > LONGEST {
        return Err(format!("the filter has {} instructions; the kernel takes {LONGEST}", program.len()));
    }
    Ok(program)
}

/// Answers when the rule fits, and goes on behind itself with the number loaded when not.
fn compile_rule(rule: &Rule) -> Result<Vec<Instruction>, String> {
    if rule.conditions.is_empty() {
        return Ok(vec![instruction(IF_EQUAL, rule.call, 0, 1), answer(rule.action)]);
    }
    let mut body: Vec<Instruction> = Vec::new();
    for condition in &rule.conditions {
        body.extend(compile_condition(condition));
    }
    body.push(answer(rule.action));
    // What does not fit comes here; the number is wanted again by the next rule.
    let miss = body.len();
    body.push(instruction(LOAD, NUMBER, 0, 0));
    for (at, step) in body[..miss].iter_mut().enumerate() {
        let to_miss = u8::try_from(miss - at - 1).map_err(|_| "a rule has too many conditions".to_owned())?;
        for jump in [&mut step.yes, &mut step.no] {
            if *jump == MISS {
                *jump = to_miss;
            }
        }
    }
    // Another call jumps over the body and its load: the number is still there.
    let over = u8::try_from(body.len()).map_err(|_| "a rule has too many conditions".to_owned())?;
    body.insert(0, instruction(IF_EQUAL, rule.call, 0, over));
    Ok(body)
}

/// Stands for the jump to where the rule does not fit; no real jump in a condition is that long.
const MISS: u8 = u8::MAX;

/// Falls through when the condition holds, and jumps to [`MISS`] when not. A word is half of an argument, the lower half first.
fn compile_condition(condition: &Condition) -> Vec<Instruction> {
    let low = ARGUMENTS + 8 * condition.index;
    let high = low + 4;
    // Splitting in halves is what is meant.
    let (value_high, value_low) = ((condition.value >> 32) as u32, condition.value as u32);
    let load = |at| instruction(LOAD, at, 0, 0);
    let pair = |high_test: [Instruction; 2], low_test: Instruction| {
        vec![load(high), high_test[0], high_test[1], load(low), low_test]
    };
    let nothing = instruction(JUMP, 0, 0, 0);
    match condition.compare {
        Compare::Equal => pair(
            [instruction(IF_EQUAL, value_high, 0, MISS), nothing],
            instruction(IF_EQUAL, value_low, 0, MISS),
        ),
        // A higher half that differs settles it: over the load and the test of the lower one.
        Compare::NotEqual => pair(
            [instruction(IF_EQUAL, value_high, 0, 3), nothing],
            instruction(IF_EQUAL, value_low, MISS, 0),
        ),
        Compare::Greater | Compare::GreaterOrEqual => {
            let test = if condition.compare == Compare::Greater { IF_GREATER } else { IF_GREATER_OR_EQUAL };
            pair(
                [instruction(IF_GREATER, value_high, 3, 0), instruction(IF_EQUAL, value_high, 0, MISS)],
                instruction(test, value_low, 0, MISS),
            )
        }
        Compare::Less | Compare::LessOrEqual => {
            let test = if condition.compare == Compare::Less { IF_GREATER_OR_EQUAL } else { IF_GREATER };
            pair(
                [instruction(IF_GREATER, value_high, MISS, 0), instruction(IF_EQUAL, value_high, 0, 2)],
                instruction(test, value_low, MISS, 0),
            )
        }
        Compare::Masked(mask) => vec![
            load(high),
            instruction(AND, (mask >> 32) as u32, 0, 0),
            instruction(IF_EQUAL, value_high, 0, MISS),
            load(low),
            instruction(AND, mask as u32, 0, 0),
            instruction(IF_EQUAL, value_low, 0, MISS),
        ],
    }
}

/// As bytes, for the shim.
pub(crate) fn write(program: &[Instruction]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(program.len() * 8);
    for step in program {
        bytes.extend_from_slice(&step.code.to_le_bytes());
        bytes.extend_from_slice(&[step.yes, step.no]);
        bytes.extend_from_slice(&step.value.to_le_bytes());
    }
    bytes
}

/// What [`write`] has written; none when it is something else.
pub(crate) fn read(bytes: &[u8]) -> Option<Vec<Instruction>> {
    let (steps, rest) = bytes.as_chunks::<8>();
    if !rest.is_empty() || steps.is_empty() || steps.len() > LONGEST {
        return None;
    }
    let read = |[a, b, yes, no, c, d, e, f]: &[u8; 8]| Instruction {
        code: u16::from_le_bytes([*a, *b]),
        yes: *yes,
        no: *no,
        value: u32::from_le_bytes([*c, *d, *e, *f]),
    };
    Some(steps.iter().map(read).collect())
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::profile::parse;
    use super::super::syscalls;
    use super::*;

    /// What the kernel would do: the answer to a call with these arguments.
    pub(crate) fn run(program: &[Instruction], call: u32, args: &[u64]) -> u32 {
        let word = |at: u32| match at {
            NUMBER => call,
            MACHINE => THIS_MACHINE,
            at => {
                let at = at - ARGUMENTS;
                let value = args.get(at as usize / 8).copied().unwrap_or(0);
                if at.is_multiple_of(8) { value as u32 } else { (value >> 32) as u32 }
            }
        };
        let (mut at, mut held) = (0, 0);
        loop {
            let step = program[at];
            at += 1;
            let test = match step.code {
                LOAD => {
                    held = word(step.value);
                    continue;
                }
                AND => {
                    held &= step.value;
                    continue;
                }
                JUMP => continue,
                RETURN => return step.value,
                IF_EQUAL => held == step.value,
                IF_GREATER => held > step.value,
                IF_GREATER_OR_EQUAL => held >= step.value,
                other => panic!("instruction {other:#x}"),
            };
            at += usize::from(if test { step.yes } else { step.no });
        }
    }

    #[test]
    fn arguments_are_compared_as_whole_numbers() {
        let big: u64 = 0x1_0000_0005;
        let call = syscalls::number("read").unwrap();
        let fits = |op: &str, value: u64, two: u64, given: u64| {
            let text = format!(
                r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{{"names": ["read"], "action": "SCMP_ACT_ERRNO",
                   "errnoRet": 7, "args": [{{"index": 1, "value": {value}, "valueTwo": {two}, "op": "SCMP_CMP_{op}"}}]}}]}}"#
            );
            let program = compile(&parse(&text).unwrap()).unwrap();
            assert_eq!(read(&write(&program)).unwrap(), program);
            match run(&program, call, &[0, given]) {
                0x0005_0007 => true,
                0x7fff_0000 => false,
                other => panic!("{other:#x}"),
            }
        };
        let near = [0, 4, 5, 6, big - 1, big, big + 1, big + (1 << 32), u64::MAX];
        for value in [5, big] {
            for given in near {
                assert_eq!(fits("EQ", value, 0, given), given == value, "{given} == {value}");
                assert_eq!(fits("NE", value, 0, given), given != value, "{given} != {value}");
                assert_eq!(fits("LT", value, 0, given), given < value, "{given} < {value}");
                assert_eq!(fits("LE", value, 0, given), given <= value, "{given} <= {value}");
                assert_eq!(fits("GT", value, 0, given), given > value, "{given} > {value}");
                assert_eq!(fits("GE", value, 0, given), given >= value, "{given} >= {value}");
                assert_eq!(fits("MASKED_EQ", value, 5, given), given & value == 5, "{given} & {value}");
            }
        }
    }

    #[test]
    fn profiles_that_can_not_be_are_refused() {
        assert!(parse("not a profile").is_err());
        assert!(parse(r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#).unwrap_err().contains("not supported"));
        let rule = |rule: &str| {
            parse(&format!(
                r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{{"names": ["read", "unheard_of"], {rule}}}]}}"#
            ))
        };
        assert_eq!(rule(r#""action": "SCMP_ACT_KILL""#).unwrap().rules.len(), 1);
        assert!(
            rule(r#""action": "SCMP_ACT_KILL", "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]"#)
                .is_err()
        );
        assert!(rule(r#""action": "SCMP_ACT_KILL", "args": [{"index": 0, "value": 0, "op": "="}]"#).is_err());
        assert_eq!(read(&[0; 7]), None);
    }
}
