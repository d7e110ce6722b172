//! Tasks that come with the crate: for files of other people, with questions in our own words.

/// Names and texts, in order.
const TASKS: [(&str, &str); 15] = [
    ("bbq", include_str!("../../tasks/bbq.toml")),
    ("cvalues", include_str!("../../tasks/cvalues.toml")),
    ("cvalues_refusal", include_str!("../../tasks/cvalues_refusal.toml")),
    ("ethics_cm", include_str!("../../tasks/ethics_cm.toml")),
    ("ethics_deontology", include_str!("../../tasks/ethics_deontology.toml")),
    ("ethics_justice", include_str!("../../tasks/ethics_justice.toml")),
    ("ethics_utilitarianism", include_str!("../../tasks/ethics_utilitarianism.toml")),
    ("ethics_virtue", include_str!("../../tasks/ethics_virtue.toml")),
    ("gsm8k", include_str!("../../tasks/gsm8k.toml")),
    ("jcommonsensemorality", include_str!("../../tasks/jcommonsensemorality.toml")),
    ("moralchoice", include_str!("../../tasks/moralchoice.toml")),
    ("truthfulqa_mc1", include_str!("../../tasks/truthfulqa_mc1.toml")),
    ("truthfulqa_mc2", include_str!("../../tasks/truthfulqa_mc2.toml")),
    ("valuebench", include_str!("../../tasks/valuebench.toml")),
    ("xstest", include_str!("../../tasks/xstest.toml")),
];

/// The built-in tasks: names and the texts of their files.
pub fn builtin_tasks() -> impl Iterator<Item = (&'static str, &'static str)> {
    TASKS.into_iter()
}

pub(super) fn names() -> impl Iterator<Item = &'static str> {
    TASKS.iter().map(|(name, _)| *name)
}

pub(super) fn text(wanted: &str) -> Option<&'static str> {
    TASKS.iter().find(|(name, _)| *name == wanted).map(|(_, text)| *text)
}

#[cfg(test)]
mod tests {
    use super::super::Task;
    use super::*;

    #[test]
    fn every_built_in_task_is_a_task_and_names_no_command() {
        for (name, text) in builtin_tasks() {
            let task = Task::parse(text, name).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(task.name(), name);
            assert!(task.description().is_some_and(|text| text.ends_with('.')), "{name}");
            assert_eq!((task.judge_command(), task.rows()), (None, None), "{name}");
        }
        let mut sorted: Vec<&str> = names().collect();
        sorted.sort_unstable();
        assert_eq!(sorted, names().collect::<Vec<_>>());
    }
}
