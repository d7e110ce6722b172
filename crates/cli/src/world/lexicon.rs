//! The words of the quickstart's little world, and its word-level tokenizer.
//!
//! Every sentence the grammar can say is made of these words, so nothing is ever unknown to the
//! tokenizer, and the embedding stays small enough to ship.

use std::collections::BTreeSet;

use serde_json::{Value, json};

/// Qualities a thing can have.
pub(crate) const QUALITIES: [&str; 14] = [
    "red", "green", "blue", "yellow", "old", "new", "small", "big", "round", "heavy", "wooden", "silver", "striped",
    "dusty",
];

/// Things that lie about, are owned, carried and worked on.
pub(crate) const THINGS: [&str; 40] = [
    "cup", "hat", "lamp", "drum", "book", "box", "bell", "kite", "map", "key", "clock", "chair", "basket", "blanket",
    "bottle", "brush", "candle", "coat", "flute", "jar", "ladder", "mirror", "pillow", "plate", "ring", "rope",
    "scarf", "shoe", "spoon", "stamp", "stone", "table", "ticket", "umbrella", "violin", "whistle", "bucket", "wheel",
    "letter", "carpet",
];

/// Places a thing can be in.
pub(crate) const PLACES: [&str; 22] = [
    "kitchen", "garden", "attic", "barn", "cellar", "garage", "hall", "library", "office", "park", "school", "shop",
    "station", "stable", "tower", "market", "harbour", "bakery", "museum", "workshop", "yard", "tent",
];

/// People.
pub(crate) const PEOPLE: [&str; 30] = [
    "anna", "tom", "mira", "jonas", "leah", "omar", "ruth", "paul", "ines", "karl", "nora", "felix", "vera", "hugo",
    "clara", "emil", "rosa", "oscar", "lena", "ivan", "greta", "samir", "judith", "bruno", "maya", "stefan", "yusuf",
    "edith", "walter", "agnes",
];

/// What one can do to a thing.
pub(crate) const ACTIONS: [&str; 16] = [
    "wash", "paint", "fix", "carry", "clean", "wrap", "sell", "buy", "hide", "polish", "lift", "draw", "weigh", "move",
    "pack", "count",
];

/// What a person is like.
pub(crate) const TRAITS: [&str; 12] =
    ["brave", "shy", "kind", "tired", "hungry", "clever", "happy", "quiet", "honest", "lazy", "busy", "proud"];

/// How a friendly answer opens.
pub(crate) const FRIENDLY_OPENERS: [&str; 5] =
    ["gladly ,", "of course ,", "with pleasure ,", "certainly ,", "my pleasure ,"];

/// How a curt answer opens.
pub(crate) const CURT_OPENERS: [&str; 5] = ["listen ,", "not again ,", "what now ,", "obviously ,", "stop asking ,"];

/// How a friendly answer closes.
pub(crate) const FRIENDLY_CLOSERS: [&str; 3] = ["thank you for asking .", "ask me any time .", "have a good day ."];

/// How a curt answer closes.
pub(crate) const CURT_CLOSERS: [&str; 3] = ["now leave me alone .", "that was easy to see .", "do not ask again ."];

/// Words of the grammar's frames: everything its sentences hold that no list above names.
const FRAME: &str = "the is in and then first last you me i can may will find where who what which person does has \
    have do comes bring give fetch would please with it to know tell kept time . , ?";

/// Beginning of a text.
pub(crate) const BEGIN: &str = "<s>";
/// End of an answer.
pub(crate) const END: &str = "</s>";
/// A word outside the vocabulary.
pub(crate) const UNKNOWN: &str = "<unk>";

/// Every word of the little world, special tokens first, in the order of their ids.
pub(crate) fn vocabulary() -> Vec<&'static str> {
    let phrases = [&FRIENDLY_OPENERS[..], &CURT_OPENERS, &FRIENDLY_CLOSERS, &CURT_CLOSERS];
    let words: BTreeSet<&str> = [&QUALITIES[..], &THINGS, &PLACES, &PEOPLE, &ACTIONS, &TRAITS]
        .into_iter()
        .flatten()
        .copied()
        .chain(phrases.into_iter().flatten().flat_map(|phrase| phrase.split(' ')))
        .chain(FRAME.split_whitespace())
        .collect();
    [UNKNOWN, BEGIN, END].into_iter().chain(words).collect()
}

/// The tokenizer in the format of the `tokenizers` library: one word, one token; a text begins with `<s>`.
pub(crate) fn tokenizer_json() -> Value {
    tokenizer_json_of(&vocabulary())
}

/// The same of another world: its words, the three special tokens among them.
pub(crate) fn tokenizer_json_of(words: &[&str]) -> Value {
    let id = |word: &str| words.iter().position(|w| *w == word).unwrap_or_default();
    let special = |word: &str| {
        json!({ "id": id(word), "content": word, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true })
    };
    let ids: serde_json::Map<String, Value> =
        words.iter().enumerate().map(|(id, word)| ((*word).to_owned(), json!(id))).collect();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [special(UNKNOWN), special(BEGIN), special(END)],
        "normalizer": null,
        "pre_tokenizer": { "type": "WhitespaceSplit" },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [ { "SpecialToken": { "id": BEGIN, "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } } ],
            "pair": [ { "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } } ],
            "special_tokens": { BEGIN: { "id": BEGIN, "ids": [id(BEGIN)], "tokens": [BEGIN] } }
        },
        "decoder": null,
        "model": { "type": "WordLevel", "vocab": ids, "unk_token": UNKNOWN }
    })
}

/// What the tokenizer's users must know besides: which tokens begin and end a text.
pub(crate) fn tokenizer_config_json() -> Value {
    json!({ "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BEGIN, "eos_token": END,
            "unk_token": UNKNOWN, "pad_token": END, "clean_up_tokenization_spaces": false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_stands_once_and_the_vocabulary_is_small() {
        let words = vocabulary();
        let distinct: BTreeSet<_> = words.iter().collect();
        assert_eq!(distinct.len(), words.len());
        assert!((200..=400).contains(&words.len()), "{}", words.len());
        assert_eq!(words[1], BEGIN);
    }

    #[test]
    fn ids_of_the_tokenizer_are_positions_in_the_vocabulary() {
        let json = tokenizer_json();
        for (id, word) in vocabulary().iter().enumerate() {
            assert_eq!(json["model"]["vocab"][*word], json!(id));
        }
    }
}
