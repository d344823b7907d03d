//! Reads what a guest's tests print: libtest's lines, and the marks that `guest/tests.sh` puts
//! around them.

use serde::Deserialize;

/// How a test ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    Failed,
    /// It said that it cannot run, and why.
    Skipped(String),
}

/// A test, or a program that had to succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Test {
    /// The test program's name and the test's within it.
    pub(crate) name: String,
    pub(crate) outcome: Outcome,
}

/// `recoup doctor --json`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub(crate) struct Doctor {
    pub(crate) kernel: String,
    pub(crate) features: Vec<Feature>,
}

/// One of its answers.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct Feature {
    pub(crate) name: String,
    pub(crate) works: bool,
    #[serde(default)]
    pub(crate) why: Option<String>,
}

/// All that a guest said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Results {
    pub(crate) tests: Vec<Test>,
    pub(crate) doctor: Option<Doctor>,
    /// What went wrong beside tests that say so themselves.
    pub(crate) problems: Vec<String>,
}

impl Results {
    /// How many passed, failed (with the problems, which are failures as well) and were skipped.
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        let count = |wanted: fn(&Outcome) -> bool| {
            self.tests.iter().filter(|test| wanted(&test.outcome)).count()
        };
        (
            count(|outcome| *outcome == Outcome::Passed),
            count(|outcome| *outcome == Outcome::Failed) + self.problems.len(),
            count(|outcome| matches!(outcome, Outcome::Skipped(_))),
        )
    }
}

/// What is being read.
#[derive(Debug, Default)]
enum Part {
    #[default]
    Nothing,
    Doctor(String),
    /// A test program: its name, and which of the results are its own.
    Tests {
        name: String,
        first: usize,
        summed: bool,
    },
    /// A program whose exit status is its result.
    Program(String),
}

/// Reads line by line.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    results: Results,
    part: Part,
    /// A test whose result a line of its own interrupted.
    unresolved: Option<String>,
    /// The test whose output is being shown.
    shown: Option<String>,
    /// Within the output of tests that passed.
    successes: bool,
}

impl Reader {
    /// Takes one line in, and says whether people want to see it.
    pub(crate) fn line(&mut self, line: &str) -> bool {
        if let Some(mark) = line.strip_prefix("@recoup ") {
            self.mark(mark);
            return false;
        }
        match &mut self.part {
            Part::Doctor(json) => {
                json.push_str(line);
                false
            }
            Part::Tests { .. } => {
                self.test_line(line);
                !self.successes && !line.is_empty()
            }
            Part::Nothing | Part::Program(_) => true,
        }
    }

    /// What was read. Whatever has begun and not ended is a problem.
    pub(crate) fn finish(mut self) -> Results {
        match &self.part {
            Part::Nothing => {}
            Part::Doctor(_) => self.problem("recoup doctor did not end"),
            Part::Program(name) => self.problem(&format!("{name} did not end")),
            Part::Tests { name, .. } => {
                let during = match &self.unresolved {
                    Some(test) => format!("{name} did not end: the last test was {test}"),
                    None => format!("{name} did not end"),
                };
                self.problem(&during);
            }
        }
        self.results
    }

    fn problem(&mut self, words: &str) {
        self.results.problems.push(words.to_owned());
    }

    fn mark(&mut self, mark: &str) {
        let (word, rest) = mark.split_once(' ').unwrap_or((mark, ""));
        match word {
            "doctor" => self.part = Part::Doctor(String::new()),
            "program" => self.part = Part::Program(rest.to_owned()),
            "tests" => {
                self.part = Part::Tests {
                    name: rest.to_owned(),
                    first: self.results.tests.len(),
                    summed: false,
                };
            }
            "end" => self.end(rest),
            _ => self.problem(&format!("the guest printed an unknown mark: {mark}")),
        }
    }

    fn end(&mut self, status: &str) {
        self.shown = None;
        self.successes = false;
        match std::mem::take(&mut self.part) {
            Part::Nothing => {}
            Part::Doctor(json) => match serde_json::from_str(&json) {
                Ok(doctor) => self.results.doctor = Some(doctor),
                Err(error) => {
                    self.problem(&format!(
                        "recoup doctor (status {status}) printed no JSON: {error}"
                    ));
                }
            },
            Part::Program(name) => {
                let outcome = if status == "0" { Outcome::Passed } else { Outcome::Failed };
                self.results.tests.push(Test { name, outcome });
            }
            Part::Tests { name, first, summed } => {
                let own = &self.results.tests[first..];
                let failed = own.iter().any(|test| test.outcome == Outcome::Failed);
                // A program that dies takes the account of its tests with it.
                if !summed || (status != "0" && !failed) {
                    self.problem(&format!("{name} ended with status {status}"));
                }
            }
        }
        self.unresolved = None;
    }

    fn test_line(&mut self, line: &str) {
        match line {
            "successes:" => self.successes = true,
            "failures:" => self.successes = false,
            _ => {}
        }
        if let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.split(' ').next()) {
            self.shown = Some(name.to_owned());
        } else if let Some(counts) = line.strip_prefix("test result: ") {
            self.sum(counts);
        } else if let Some(skipped) = line.strip_prefix("skipped: ") {
            self.skip(skipped);
        } else if let Some((name, result)) =
            line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... "))
        {
            self.result(name, result);
        } else if let Some(name) = self.unresolved.clone() {
            self.result(&name, line);
        }
    }

    /// A test's result, unless the rest of the line is something that the test printed.
    fn result(&mut self, name: &str, words: &str) {
        let outcome = match words {
            "ok" => Outcome::Passed,
            "FAILED" => Outcome::Failed,
            "ignored" => Outcome::Skipped("ignored".to_owned()),
            _ => match words.strip_prefix("ignored, ") {
                Some(reason) => Outcome::Skipped(reason.to_owned()),
                None => {
                    self.unresolved = Some(name.to_owned());
                    return;
                }
            },
        };
        self.unresolved = None;
        let name = self.full_name(name);
        self.results.tests.push(Test { name, outcome });
    }

    fn full_name(&self, test: &str) -> String {
        match &self.part {
            Part::Tests { name, .. } => format!("{name} {test}"),
            _ => test.to_owned(),
        }
    }

    /// `NAME: REASON`, from the output of a test that passed because it did nothing.
    fn skip(&mut self, words: &str) {
        let (named, reason) = words.split_once(": ").unwrap_or(("", words));
        let name = self.full_name(self.shown.as_deref().unwrap_or(named));
        let passed = |test: &&mut Test| test.name == name && test.outcome == Outcome::Passed;
        if let Some(test) = self.results.tests.iter_mut().find(passed) {
            test.outcome = Outcome::Skipped(reason.to_owned());
        }
    }

    /// Holds libtest's own count of passed and failed tests against what was read.
    fn sum(&mut self, counts: &str) {
        let count = |what: &str| {
            let before = counts.split(what).next()?;
            before.split_whitespace().last()?.parse::<usize>().ok()
        };
        let said = [count(" passed"), count(" failed"), count(" ignored")];
        let said: usize = said.into_iter().flatten().sum();
        let Part::Tests { name, first, summed } = &mut self.part else {
            return;
        };
        *summed = true;
        self.successes = false;
        let read = self.results.tests.len() - *first;
        if said != read {
            let words = format!("{name} counted {said} tests, but {read} results were read");
            self.problem(&words);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Results {
        let mut reader = Reader::default();
        for line in text.lines() {
            reader.line(line);
        }
        reader.finish()
    }

    const MIXED: &str = "\
@recoup tests sys.features
running 4 tests
test a::fine ... ok
test needs_more ... ok
test wrong ... FAILED
test slow ... ignored, takes an hour

successes:

---- needs_more stdout ----
skipped: main: needs 2 NUMA nodes

failures:

---- wrong stdout ----
thread 'wrong' panicked at x.rs:1:1:
boom

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s
@recoup end 101
";

    #[test]
    fn each_test_has_its_outcome_and_skips_have_their_reason() {
        let results = read(MIXED);
        let outcomes: Vec<_> =
            results.tests.iter().map(|test| (test.name.as_str(), test.outcome.clone())).collect();
        let skipped = |reason: &str| Outcome::Skipped(reason.to_owned());
        assert_eq!(
            outcomes,
            [
                ("sys.features a::fine", Outcome::Passed),
                ("sys.features needs_more", skipped("needs 2 NUMA nodes")),
                ("sys.features wrong", Outcome::Failed),
                ("sys.features slow", skipped("takes an hour")),
            ]
        );
        assert_eq!(results.problems, Vec::<String>::new());
        assert_eq!(results.counts(), (1, 1, 2));
    }

    #[test]
    fn a_result_is_found_behind_words_that_the_test_printed() {
        let results = read(
            "@recoup tests t\ntest noisy ... hello\nworld\nok\n\
             test result: ok. 1 passed; 0 failed; 0 ignored\n@recoup end 0\n",
        );
        assert_eq!(results.counts(), (1, 0, 0));
    }

    #[test]
    fn people_see_results_and_failures_but_not_what_passing_tests_print() {
        let mut reader = Reader::default();
        let seen: Vec<&str> = MIXED.lines().filter(|line| reader.line(line)).collect();
        assert!(seen.contains(&"test a::fine ... ok") && seen.contains(&"boom"));
        assert!(!seen.iter().any(|line| line.contains("skipped: main")));
    }

    #[test]
    fn a_program_that_dies_is_a_failure() {
        let results = read("@recoup tests t\ntest a ... ok\ntest b ... @\n@recoup end 139\n");
        assert_eq!(results.problems, ["t ended with status 139"]);
        let results = read("@recoup tests t\ntest a ... ok\ntest b ... \n");
        assert_eq!(results.problems, ["t did not end: the last test was b"]);
    }

    #[test]
    fn results_that_were_not_read_are_missed() {
        let results = read(
            "@recoup tests t\ntest a ... ok\n\
             test result: ok. 2 passed; 0 failed; 0 ignored\n@recoup end 0\n",
        );
        assert_eq!(results.problems, ["t counted 2 tests, but 1 results were read"]);
    }

    #[test]
    fn programs_count_by_their_status_and_doctor_by_its_document() {
        let results = read(
            "@recoup doctor\n{\"schema\": 1, \"kernel\": \"6.1\",\n \"features\": [{\"name\": \
             \"thp\", \"works\": false, \"why\": \"never\"}]}\n@recoup end 0\n\
             @recoup program recoup demo\nsome words\n@recoup end 1\n",
        );
        assert_eq!(results.tests[0].outcome, Outcome::Failed);
        let doctor = results.doctor.unwrap();
        assert_eq!(doctor.kernel, "6.1");
        assert_eq!(doctor.features[0].why.as_deref(), Some("never"));
    }
}
