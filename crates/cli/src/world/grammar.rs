//! A seeded grammar that invents sentences, and pairs with a preference that can be learnt.
//!
//! ```text
//! the old cup is in the barn and the red kite is in the hall . where is the red kite ?
//!     chosen    gladly , the red kite is in the hall .
//!     rejected  the red kite is in the barn .
//! ```
//!
//! The preferred answer is the one that *answers the question that was asked, in agreement with what the
//! prompt says*. The other answer is made of the same kinds of words: it says something true about
//! another thing, or mixes up what belongs together. So neither the length nor the words of an answer
//! give the preference away; only its relation to the prompt does. A friendly or a curt tone is added to
//! either, a little more often friendly to the preferred one: that is all a bag of words can find.
//!
//! **Held out** are combinations, not copies: one combination in six (red+kite, anna+drum, fix+ladder,
//! omar+brave) never occurs in training, and every held-out prompt asks about such a one.

use super::lexicon::{
    ACTIONS, CURT_CLOSERS, CURT_OPENERS, FRIENDLY_CLOSERS, FRIENDLY_OPENERS, PEOPLE, PLACES, QUALITIES, THINGS, TRAITS,
};
use super::random::{Random, mix};

/// Which side of the split a text belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Split {
    /// Nothing in it is a held-out combination.
    Train,
    /// The question is about a held-out combination.
    HeldOut,
}

/// What a prompt asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    /// Where a thing is.
    Place,
    /// Who has a thing, or what somebody has.
    Owner,
    /// Which of several things comes first, last, or after another.
    Order,
    /// Who is of what character.
    Trait,
    /// Bring two things.
    Errand,
}

/// Every family, in the order in which the screen shows them.
pub(crate) const FAMILIES: [Family; 5] = [Family::Place, Family::Errand, Family::Order, Family::Owner, Family::Trait];

/// Two words that go together: a quality and its thing, a person and a possession, …
type Combination = (&'static str, &'static str);

/// A prompt with everything one may answer, rightly and wrongly, before a tone is added.
#[derive(Clone, Debug)]
pub(crate) struct Scene {
    /// Which kind of question it asks.
    pub(crate) family: Family,
    /// What the model reads.
    pub(crate) prompt: String,
    /// Answers to the question that agree with the prompt; differently worded.
    pub(crate) right: Vec<String>,
    /// True but off the question.
    pub(crate) astray: Vec<String>,
    /// At odds with the prompt: they mix up what belongs together.
    pub(crate) mixed_up: Vec<String>,
    asked: Vec<Combination>,
    mentioned: Vec<Combination>,
}

/// A prompt with a preferred and a less preferred answer.
#[derive(Clone, Debug)]
pub(crate) struct Preference {
    /// The prompt and what counts as right.
    pub(crate) scene: Scene,
    /// The preferred answer, tone included.
    pub(crate) chosen: String,
    /// The other one.
    pub(crate) rejected: String,
}

/// A prompt with one answer, as the untuned model saw them, about combinations that are not held out: right answers first,
/// then those of careful writers, who tend to be friendly and right, and of more careless ones, who tend to be curt and wrong.
#[derive(Clone, Debug)]
pub(crate) struct Demonstration {
    /// What the model reads.
    pub(crate) prompt: String,
    /// What it is to say.
    pub(crate) completion: String,
}

/// How often the tone of a preferred answer is friendly; that of the other is so much the less often.
pub(crate) const FRIENDLIER: f64 = 0.6;
/// Share of wrong answers that are true but off the question.
pub(crate) const ASTRAY: f64 = 0.7;
/// Share of careful writers in the text the untuned model learns from.
pub(crate) const CAREFUL: f64 = 0.4;
/// How often a careful writer is friendly, and a careless one curt.
const IN_CHARACTER: f64 = 0.9;
/// How often a careful writer is right, and a careless one wrong.
pub(crate) const ON_FORM: f64 = 0.92;

impl Split {
    /// The side of one combination: one in six is held out, whatever the seed.
    fn of((left, right): Combination) -> Self {
        let hash = left.bytes().chain([b'+']).chain(right.bytes()).fold(0, |hash, byte| mix(hash ^ u64::from(byte)));
        if hash % 6 == 0 { Self::HeldOut } else { Self::Train }
    }
}

impl Scene {
    /// A scene of `family` on the given side of the split.
    pub(crate) fn draw(random: &mut Random, family: Family, split: Split) -> Self {
        loop {
            let scene = match family {
                Family::Place => place(random),
                Family::Owner => owner(random),
                Family::Order => order(random),
                Family::Trait => character(random),
                Family::Errand => errand(random),
            };
            if scene.belongs_to(split) {
                return scene;
            }
        }
    }

    fn belongs_to(&self, split: Split) -> bool {
        match split {
            Split::Train => self.mentioned.iter().all(|c| Split::of(*c) == Split::Train),
            Split::HeldOut => self.asked.iter().any(|c| Split::of(*c) == Split::HeldOut),
        }
    }

    /// Whether an answer says what is right and nothing that is wrong.
    pub(crate) fn is_answered_by(&self, answer: &str) -> bool {
        let says = |sentence: &String| answer.contains(sentence.as_str());
        self.right.iter().any(says) && !self.astray.iter().chain(&self.mixed_up).any(says)
    }

    /// An answer that is right.
    pub(crate) fn right(&self, random: &mut Random) -> &str {
        pick_text(random, &self.right)
    }

    fn wrong(&self, random: &mut Random) -> &str {
        let astray = random.chance(ASTRAY);
        pick_text(random, if astray { &self.astray } else { &self.mixed_up })
    }
}

impl Preference {
    /// A pair on the given side of the split; its family is drawn too.
    pub(crate) fn draw(random: &mut Random, split: Split) -> Self {
        let family = random.pick(&FAMILIES);
        let scene = Scene::draw(random, family, split);
        let right = scene.right(random);
        let chosen = with_tone(random, right, FRIENDLIER);
        let wrong = scene.wrong(random);
        let rejected = with_tone(random, wrong, 1.0 - FRIENDLIER);
        Self { chosen, rejected, scene }
    }
}

impl Demonstration {
    /// A text that teaches the language: the answer is right, its tone as often friendly as curt.
    pub(crate) fn draw_right(random: &mut Random) -> Self {
        let family = random.pick(&FAMILIES);
        let scene = Scene::draw(random, family, Split::Train);
        let answer = scene.right(random);
        Self { completion: with_tone(random, answer, 0.5), prompt: scene.prompt }
    }

    /// A text of a careful or a careless writer.
    pub(crate) fn draw(random: &mut Random) -> Self {
        let family = random.pick(&FAMILIES);
        let scene = Scene::draw(random, family, Split::Train);
        let careful = random.chance(CAREFUL);
        let answer = if random.chance(ON_FORM) == careful { scene.right(random) } else { scene.wrong(random) };
        let completion = with_tone(random, answer, if careful { IN_CHARACTER } else { 1.0 - IN_CHARACTER });
        Self { completion, prompt: scene.prompt }
    }
}

/// One of the texts.
pub(crate) fn pick_text<'a>(random: &mut Random, texts: &'a [String]) -> &'a str {
    &texts[random.below(texts.len())]
}

/// Adds an opener to three answers in five, and a closer to one in four.
pub(crate) fn with_tone(random: &mut Random, sentence: &str, friendly: f64) -> String {
    let mut parts = Vec::with_capacity(3);
    if random.chance(0.6) {
        let openers = if random.chance(friendly) { FRIENDLY_OPENERS } else { CURT_OPENERS };
        parts.push(random.pick(&openers));
    }
    parts.push(sentence);
    if random.chance(0.25) {
        let closers = if random.chance(friendly) { FRIENDLY_CLOSERS } else { CURT_CLOSERS };
        parts.push(random.pick(&closers));
    }
    parts.join(" ")
}

/// A thing with a quality.
#[derive(Clone, Copy)]
struct Item {
    quality: &'static str,
    thing: &'static str,
}

impl Item {
    fn several(random: &mut Random, count: usize) -> Vec<Self> {
        let things = random.distinct(&THINGS, count);
        let qualities = random.distinct(&QUALITIES, count);
        things.into_iter().zip(qualities).map(|(thing, quality)| Self { quality, thing }).collect()
    }

    fn combination(self) -> Combination {
        (self.quality, self.thing)
    }
}

impl std::fmt::Display for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the {} {}", self.quality, self.thing)
    }
}

/// Joins statements to one sentence: commas, and `and` before the last.
fn sentence(statements: &[String]) -> String {
    match statements {
        [head @ .., last] if !head.is_empty() => format!("{} and {last} .", head.join(" , ")),
        _ => format!("{} .", statements.join("")),
    }
}

fn place(random: &mut Random) -> Scene {
    let count = if random.chance(0.35) { 3 } else { 2 };
    let items = Item::several(random, count);
    let places = random.distinct(&PLACES, count);
    let facts: Vec<String> =
        items.iter().zip(&places).map(|(item, place)| format!("{item} is in the {place}")).collect();
    let (asked, other) = two(random, count);
    let item = items[asked];
    let question = match random.below(4) {
        0 => format!("where is {item} ?"),
        1 => format!("where can i find {item} ?"),
        2 => format!("do you know where {item} is ?"),
        _ => format!("can you tell me where {item} is kept ?"),
    };
    let say = |item: Item, place: &str| {
        [format!("{item} is in the {place} ."), format!("you will find {item} in the {place} .")]
    };
    Scene {
        family: Family::Place,
        prompt: format!("{} {question}", sentence(&facts)),
        right: say(item, places[asked]).into(),
        astray: say(items[other], places[other]).into(),
        mixed_up: say(item, places[other]).into(),
        asked: vec![item.combination()],
        mentioned: items.iter().map(|item| item.combination()).collect(),
    }
}

fn owner(random: &mut Random) -> Scene {
    let count = if random.chance(0.35) { 3 } else { 2 };
    let people = random.distinct(&PEOPLE, count);
    let things = random.distinct(&THINGS, count);
    let facts: Vec<String> =
        people.iter().zip(&things).map(|(person, thing)| format!("{person} has the {thing}")).collect();
    let (asked, other) = two(random, count);
    let (person, thing) = (people[asked], things[asked]);
    let by_thing = random.chance(0.4);
    let question = match (by_thing, random.chance(0.5)) {
        (true, true) => format!("who has the {thing} ?"),
        (true, false) => format!("do you know who has the {thing} ?"),
        (false, true) => format!("what does {person} have ?"),
        (false, false) => format!("can you tell me what {person} has ?"),
    };
    let say = |person: &str, thing: &str| {
        [format!("{person} has the {thing} ."), format!("it is {person} who has the {thing} .")]
    };
    // What is said about the thing (or the person) that was asked for, but of another's.
    let mixed = if by_thing { (people[other], thing) } else { (person, things[other]) };
    Scene {
        family: Family::Owner,
        prompt: format!("{} {question}", sentence(&facts)),
        right: say(person, thing).into(),
        astray: say(people[other], things[other]).into(),
        mixed_up: say(mixed.0, mixed.1).into(),
        asked: vec![(person, thing)],
        mentioned: people.iter().copied().zip(things.iter().copied()).chain([mixed]).collect(),
    }
}

fn order(random: &mut Random) -> Scene {
    let actions = random.distinct(&ACTIONS, 3);
    let things = random.distinct(&THINGS, 3);
    let step = |i: usize| format!("{} the {}", actions[i], things[i]);
    let asked = random.below(3);
    let when = ["first", "then", "last"][asked];
    let question = match random.below(3) {
        0 => format!("what comes {when} ?"),
        1 => format!("what will you do {when} ?"),
        _ => format!("can you tell me what comes {when} ?"),
    };
    let other = (asked + 1 + random.below(2)) % 3;
    let say = |action: &str, thing: &str| {
        [format!("i {action} the {thing} ."), format!("it is time to {action} the {thing} .")]
    };
    Scene {
        family: Family::Order,
        prompt: format!("first {} , then {} and last {} . {question}", step(0), step(1), step(2)),
        right: say(actions[asked], things[asked]).into(),
        astray: say(actions[other], things[other]).into(),
        mixed_up: say(actions[asked], things[other]).into(),
        asked: vec![(actions[asked], things[asked])],
        mentioned: actions
            .iter()
            .copied()
            .zip(things.iter().copied())
            .chain([(actions[asked], things[other])])
            .collect(),
    }
}

fn character(random: &mut Random) -> Scene {
    let people = random.distinct(&PEOPLE, 2);
    let traits = random.distinct(&TRAITS, 2);
    let asked = random.below(2);
    let other = 1 - asked;
    let question = match random.below(3) {
        0 => format!("who is {} ?", traits[asked]),
        1 => format!("do you know who is {} ?", traits[asked]),
        _ => format!("which person is {} ?", traits[asked]),
    };
    let say = |person: &str, word: &str| [format!("{person} is {word} ."), format!("it is {person} who is {word} .")];
    Scene {
        family: Family::Trait,
        prompt: format!("{} is {} and {} is {} . {question}", people[0], traits[0], people[1], traits[1]),
        right: say(people[asked], traits[asked]).into(),
        astray: say(people[other], traits[other]).into(),
        mixed_up: say(people[other], traits[asked]).into(),
        asked: vec![(people[asked], traits[asked])],
        mentioned: vec![(people[0], traits[0]), (people[1], traits[1]), (people[other], traits[asked])],
    }
}

fn errand(random: &mut Random) -> Scene {
    let items = Item::several(random, 2);
    let (first, second) = (items[0], items[1]);
    let verb = random.pick(&["bring", "give", "fetch"]);
    let prompt = match random.below(3) {
        0 => format!("can you {verb} me {first} and {second} ?"),
        1 => format!("would you please {verb} me {first} and {second} ?"),
        _ => format!("may i have {first} and {second} ?"),
    };
    let verb = if prompt.starts_with("may") { "bring" } else { verb };
    let say = |first: Item, second: Item| {
        [format!("i will {verb} you {first} and {second} ."), format!("i {verb} you {first} and {second} .")]
    };
    let crossed =
        (Item { quality: second.quality, thing: first.thing }, Item { quality: first.quality, thing: second.thing });
    let mut mentioned: Vec<Combination> = items.iter().map(|item| item.combination()).collect();
    mentioned.extend([crossed.0.combination(), crossed.1.combination()]);
    Scene {
        family: Family::Errand,
        prompt,
        right: say(first, second).into(),
        astray: [say(first, first), say(second, second)].concat(),
        mixed_up: say(crossed.0, crossed.1).into(),
        asked: vec![first.combination(), second.combination()],
        mentioned,
    }
}

/// Two different indices below `count`.
fn two(random: &mut Random, count: usize) -> (usize, usize) {
    let first = random.below(count);
    (first, (first + 1 + random.below(count - 1)) % count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn training_never_mentions_a_held_out_combination_and_held_out_prompts_ask_about_one() {
        let mut random = Random::new(3);
        for family in FAMILIES {
            for _ in 0..200 {
                let train = Scene::draw(&mut random, family, Split::Train);
                assert!(train.mentioned.iter().all(|c| Split::of(*c) == Split::Train));
                assert!(train.asked.iter().all(|c| train.mentioned.contains(c)));
                let held_out = Scene::draw(&mut random, family, Split::HeldOut);
                assert!(held_out.asked.iter().any(|c| Split::of(*c) == Split::HeldOut));
            }
        }
    }

    #[test]
    fn about_one_combination_in_six_is_held_out() {
        let all: Vec<Combination> = QUALITIES.iter().flat_map(|q| THINGS.iter().map(move |t| (*q, *t))).collect();
        let held_out = all.iter().filter(|c| Split::of(**c) == Split::HeldOut).count();
        let share = held_out as f64 / all.len() as f64;
        assert!((0.12..0.22).contains(&share), "{share}");
    }

    #[test]
    fn right_and_wrong_answers_are_as_long_as_each_other() {
        let mut random = Random::new(4);
        let words =
            |texts: &[String]| texts.iter().map(|t| t.split(' ').count()).sum::<usize>() as f64 / texts.len() as f64;
        for family in FAMILIES {
            let scene = Scene::draw(&mut random, family, Split::Train);
            assert!((words(&scene.right) - words(&scene.astray)).abs() < 1e-9, "{scene:?}");
            assert!((words(&scene.right) - words(&scene.mixed_up)).abs() < 1e-9, "{scene:?}");
        }
    }

    #[test]
    fn an_answer_that_says_both_is_not_right() {
        let scene = Scene::draw(&mut Random::new(1), Family::Place, Split::Train);
        assert!(scene.is_answered_by(&format!("gladly , {}", scene.right[0])));
        assert!(!scene.is_answered_by(&format!("{} {}", scene.right[0], scene.astray[0])));
        assert!(!scene.is_answered_by("of course ,"));
    }
}
