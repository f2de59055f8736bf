//! What could not be said in a chat because QQ takes no more replies there: it is kept, and said as soon as somebody
//! writes again. Pure; the texts and the list are memos.

use crate::core::types::Memo;
use crate::limits;
use serde::{Deserialize, Serialize};

/// A memo's worth of text. JSON or not, it is stored as it is.
const PIECE_BYTES: usize = limits::MEMO_BYTES_MAX - 1024;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Item {
    /// That of the part.
    pub key: String,
    /// Memos that its text takes.
    pieces: usize,
}

/// The parts that wait in one chat, in the order in which they are to be sent.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    chat: String,
    items: Vec<Item>,
}

/// The memo of the list.
pub(super) fn list_key(chat: &str) -> String {
    format!("kept/{chat}")
}

impl Waiting {
    pub fn read(chat: &str, memo: Option<&str>) -> Self {
        Self { chat: chat.to_owned(), items: memo.and_then(|memo| serde_json::from_str(memo).ok()).unwrap_or_default() }
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub fn holds(&self, key: &str) -> bool {
        self.items.iter().any(|item| item.key == key)
    }

    pub fn first(&self) -> Option<&Item> {
        self.items.first()
    }

    /// The memos with the text of an item, in order.
    pub fn pieces(&self, item: &Item) -> impl Iterator<Item = String> + use<> {
        let (chat, key, pieces) = (self.chat.clone(), item.key.clone(), item.pieces);
        (0..pieces).map(move |number| format!("kept/{chat}/{key}/{number}"))
    }

    /// Adds a part, at the end or in front of the part `before`. → the memos with its text; `None`: there is no room.
    pub fn add(&mut self, key: &str, text: &str, before: Option<&str>) -> Option<Vec<Memo>> {
        if self.items.len() >= limits::QQBOT_WAITING_MAX {
            return None;
        }
        let pieces = cut(text);
        let item = Item { key: key.to_owned(), pieces: pieces.len() };
        let keys = self.pieces(&item);
        let at = before.and_then(|before| self.items.iter().position(|item| item.key == before)).unwrap_or(self.items.len());
        self.items.insert(at, item);
        Some(keys.zip(pieces).map(|(key, piece)| Memo::new(key, piece)).collect())
    }

    /// The part was sent, or never will be. → the memos to be forgotten
    pub fn remove(&mut self, key: &str) -> Vec<Memo> {
        let removed: Vec<Item> = self.items.extract_if(.., |item| item.key == key).collect();
        removed.iter().flat_map(|item| self.pieces(item)).map(Memo::forget).collect()
    }

    /// The list as it is to be now.
    pub fn memo(&self) -> Memo {
        let key = list_key(&self.chat);
        if self.items.is_empty() { Memo::forget(key) } else { Memo::new(key, serde_json::to_string(&self.items).unwrap_or_default()) }
    }
}

fn cut(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = (0..=rest.len().min(PIECE_BYTES)).rev().find(|end| rest.is_char_boundary(*end)).unwrap_or(rest.len());
        let (piece, after) = rest.split_at(end);
        pieces.push(piece);
        rest = after;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back_whole_and_in_order() {
        let mut waiting = Waiting::read("c2c:A", None);
        let text = "Zeichen für Zeichen. 汉字🦀".repeat(900);
        let memos = waiting.add("k-1", &text, None).expect("room");
        assert!(memos.len() > 3 && memos.iter().all(|memo| memo.value.as_ref().is_some_and(|value| value.len() <= PIECE_BYTES)));
        waiting.add("k-2", "later", None).expect("room");
        waiting.add("k", "first", Some("k-1")).expect("room");
        let mut again = Waiting::read("c2c:A", waiting.memo().value.as_deref());
        assert_eq!(again.items.iter().map(|item| item.key.as_str()).collect::<Vec<_>>(), ["k", "k-1", "k-2"]);
        assert!(again.holds("k-2") && !again.holds("k-3"));
        let found: String = again
            .pieces(&again.items[1])
            .map(|key| memos.iter().find(|memo| memo.key == key).expect("kept").value.clone().expect("text"))
            .collect();
        assert_eq!(found, text);
        assert_eq!(again.remove("k-1"), memos.iter().map(|memo| Memo::forget(memo.key.clone())).collect::<Vec<_>>());
        again.remove("k");
        assert_eq!(again.first().map(|item| item.key.as_str()), Some("k-2"));
        again.remove("k-2");
        assert_eq!((again.is_empty(), again.memo()), (true, Memo::forget("kept/c2c:A")));
    }

    #[test]
    fn there_is_an_end_to_it() {
        let mut waiting = Waiting::read("c", Some("garbage"));
        for number in 0..limits::QQBOT_WAITING_MAX {
            assert!(waiting.add(&format!("{number:0>40}"), "x", None).is_some());
        }
        assert_eq!(waiting.add("more", "x", None), None);
        assert!(waiting.memo().value.is_some_and(|value| value.len() < PIECE_BYTES));
    }
}
