//! Messages as text: the `Debug` form of any generated message, without what says nothing.
//!
//! Works on any message, so that no field can be forgotten. Fields at their default are left out, wrappers
//! vanish, maps are sorted, addresses and durations are written as people write them:
//! `Add{addrs=[{addr=10.0.0.1:80 weight=10000}]}`. Texts are compared by token: white space is free.

use std::fmt::Debug;
use std::net::{Ipv4Addr, Ipv6Addr};

/// One node of a `Debug` text.
#[derive(Debug, Clone)]
enum Node {
    Word(String),
    Text(String),
    Record(String, Vec<(String, Node)>),
    Tuple(String, Vec<Node>),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
}

/// A message as text.
pub(crate) fn of(message: &impl Debug) -> String {
    let text = format!("{message:?}");
    let mut reader = Reader { rest: &text };
    let node = reader.node();
    assert!(reader.rest.is_empty(), "not read to its end: {}", reader.rest);
    show(&node)
}

/// The tokens of a text: what is compared.
pub(crate) fn tokens(text: &str) -> Vec<String> {
    let mut tokens = vec![String::new()];
    let mut quoted = false;
    for c in text.chars() {
        quoted ^= c == '"';
        let last = tokens.last_mut().unwrap();
        match c {
            c if c.is_whitespace() && !quoted => tokens.push(String::new()),
            '{' | '}' | '[' | ']' | '(' | ')' if !quoted => tokens.extend([c.to_string(), String::new()]),
            c => last.push(c),
        }
    }
    tokens.retain(|t| !t.is_empty());
    tokens
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn skip(&mut self, text: &str) -> bool {
        let rest = self.rest.trim_start();
        let found = rest.strip_prefix(text);
        self.rest = found.unwrap_or(rest);
        found.is_some()
    }

    fn node(&mut self) -> Node {
        self.rest = self.rest.trim_start();
        if self.skip("[") {
            return Node::List(self.until("]"));
        }
        if self.skip("{") {
            return Node::Map(self.pairs("}"));
        }
        if self.skip("\"") {
            return Node::Text(self.text());
        }
        // Fields that are called like words of the language.
        self.skip("r#");
        let end = self.rest.find(|c: char| !(c.is_alphanumeric() || "_.-+".contains(c)));
        let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        let word = word.to_owned();
        self.rest = rest;
        if self.rest.starts_with('(') && self.skip("(") {
            return Node::Tuple(word, self.until(")"));
        }
        if self.rest.starts_with(" {") && self.skip("{") {
            let fields = self.pairs("}").into_iter();
            return Node::Record(word, fields.map(|(name, value)| (show(&name), value)).collect());
        }
        Node::Word(word)
    }

    fn until(&mut self, end: &str) -> Vec<Node> {
        let mut list = Vec::new();
        while !self.skip(end) {
            list.push(self.node());
            self.skip(",");
        }
        list
    }

    fn pairs(&mut self, end: &str) -> Vec<(Node, Node)> {
        let mut list = Vec::new();
        while !self.skip(end) {
            let key = self.node();
            assert!(self.skip(":"), "no colon: {}", self.rest);
            list.push((key, self.node()));
            self.skip(",");
        }
        list
    }

    /// The rest of a quoted text. Escapes are kept as they are, but for quotes and backslashes.
    fn text(&mut self) -> String {
        let (mut text, mut escaped) = (String::new(), false);
        for (at, c) in self.rest.char_indices() {
            match (c, escaped) {
                ('"', false) => {
                    self.rest = &self.rest[at + 1..];
                    return text;
                }
                ('\\', false) => escaped = true,
                (c, _) => {
                    text.push(c);
                    escaped = false;
                }
            }
        }
        panic!("a text without end: {}", self.rest)
    }
}

fn show(node: &Node) -> String {
    match node {
        Node::Word(word) => word.clone(),
        Node::Text(text) => quoted(text),
        Node::List(list) => format!("[{}]", list.iter().map(show).collect::<Vec<_>>().join(" ")),
        Node::Map(pairs) => {
            let mut pairs: Vec<_> = pairs.iter().map(|(k, v)| format!("{}={}", show(k), show(v))).collect();
            pairs.sort();
            format!("{{{}}}", pairs.join(" "))
        }
        Node::Tuple(name, list) => match (name.as_str(), &list[..]) {
            ("Some", [inner]) => show(inner),
            ("Ipv4", [Node::Word(number)]) => Ipv4Addr::from(number.parse::<u32>().unwrap()).to_string(),
            ("Ipv6", [inner]) => {
                let (first, last) = (number(inner, "first"), number(inner, "last"));
                Ipv6Addr::from(u128::from(first) << 64 | u128::from(last)).to_string()
            }
            (name, [inner @ (Node::Record(..) | Node::List(_))]) => format!("{name}{}", show(inner)),
            (name, list) => format!("{name}({})", list.iter().map(show).collect::<Vec<_>>().join(" ")),
        },
        Node::Record(name, fields) => record(name, fields, node),
    }
}

fn record(name: &str, fields: &[(String, Node)], whole: &Node) -> String {
    let field = |name: &str| fields.iter().find(|(n, _)| n == name).map(|(_, v)| show(v));
    match name {
        "TcpAddress" => {
            let ip = field("ip").unwrap();
            let ip = if ip.contains(':') { format!("[{ip}]") } else { ip };
            format!("{ip}:{}", field("port").unwrap())
        }
        "IpAddress" => field("ip").unwrap(),
        "IpNetwork" => format!("{}/{}", field("ip").unwrap(), field("prefix_len").unwrap()),
        "Duration" => {
            let nanos = number(whole, "seconds") * 1_000_000_000 + number(whole, "nanos");
            match nanos % 1_000_000_000 {
                0 => format!("{}s", nanos / 1_000_000_000),
                _ => format!("{}ms", nanos as f64 / 1e6),
            }
        }
        _ => {
            let said = fields.iter().filter(|(_, value)| says_something(value));
            let said: Vec<_> = said.map(|(name, value)| format!("{name}={}", show(value))).collect();
            format!("{{{}}}", said.join(" "))
        }
    }
}

fn says_something(node: &Node) -> bool {
    match node {
        Node::Word(word) => !["None", "0", "0.0", "false"].contains(&word.as_str()),
        Node::Text(text) => !text.is_empty(),
        Node::List(list) => !list.is_empty(),
        Node::Map(pairs) => !pairs.is_empty(),
        Node::Tuple(..) | Node::Record(..) => true,
    }
}

fn number(node: &Node, name: &str) -> u64 {
    let Node::Record(_, fields) = node else { panic!("no fields: {node:?}") };
    let value = fields.iter().find(|(n, _)| n == name).map(|(_, v)| show(v));
    value.unwrap().parse().unwrap()
}

fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:*@".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("\"{text}\""),
    }
}

#[test]
fn messages_are_written_without_what_says_nothing() {
    use linkerd2_proxy_api::destination as api;
    use std::net::SocketAddr;
    let addr = |text: &str| text.parse::<SocketAddr>().unwrap().into();
    let one = api::WeightedAddr {
        addr: Some(addr("10.0.0.1:80")),
        metric_labels: [("b".into(), "x y".into()), ("a".into(), String::new())].into(),
        ..Default::default()
    };
    let two = api::WeightedAddr { addr: Some(addr("[fd00::1]:8")), weight: 5, ..Default::default() };
    let set = api::WeightedAddrSet { addrs: vec![one, two], ..Default::default() };
    let update = api::Update { update: Some(api::update::Update::Add(set)) };
    assert_eq!(
        of(&update),
        r#"{update=Add{addrs=[{addr=10.0.0.1:80 metric_labels={a="" b="x y"}} {addr=[fd00::1]:8 weight=5}]}}"#
    );
    assert_eq!(tokens("a{ b [c\n\"d e\"]"), ["a", "{", "b", "[", "c", "\"d e\"", "]"]);
}
