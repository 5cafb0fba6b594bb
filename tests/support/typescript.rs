//! The part of TypeScript's types that the registry uses: where does a JSON value not fit its declaration?

use std::collections::BTreeMap;

use serde_json::Value;

#[derive(Debug, Clone, PartialEq)]
pub enum Type {
    Unknown,
    Undefined,
    /// `null`, `boolean`, `number`, `string`.
    Kind(String),
    Literal(Value),
    Array(Box<Type>),
    /// `Record<string, …>`.
    Record,
    Object(BTreeMap<String, Member>),
    Union(Vec<Type>),
    /// A type by its name; `Partial<…>` of it if the flag is set.
    Named(String, bool),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    pub optional: bool,
    pub of: Type,
}

/// The declared types, by name.
pub struct Types(BTreeMap<String, Type>);

impl Types {
    /// Reads `export interface` and `export type` declarations; everything else is skipped.
    pub fn read(source: &str) -> Types {
        let mut tokens = tokens(source).into_iter().peekable();
        let mut types = BTreeMap::new();
        while let Some(token) = tokens.next() {
            if token != "interface" && token != "type" {
                continue;
            }
            let Some(name) = tokens.next() else { break };
            let mut reader = Reader { tokens: &mut tokens };
            if token == "type" {
                if reader.take("=") {
                    types.insert(name, reader.union());
                }
                continue;
            }
            let parent = reader.take("extends").then(|| reader.next());
            let Type::Object(mut members) = reader.single() else { panic!("{name} has no members") };
            if let Some(parent) = parent.and_then(|parent| types.get(&parent)) {
                let Type::Object(inherited) = parent else { panic!("{name} extends no interface") };
                members.extend(inherited.clone());
            }
            types.insert(name, Type::Object(members));
        }
        Types(types)
    }

    /// A type as written in a declaration.
    pub fn parse(&self, text: &str) -> Type {
        let mut tokens = tokens(text).into_iter().peekable();
        let mut reader = Reader { tokens: &mut tokens };
        reader.union()
    }

    /// The same type, with a name replaced by its definition.
    pub fn resolve(&self, of: &Type) -> Type {
        let Type::Named(name, partial) = of else { return of.clone() };
        let declared = self.0.get(name).unwrap_or_else(|| panic!("no type {name}"));
        match self.resolve(declared) {
            Type::Object(mut members) if *partial => {
                members.values_mut().for_each(|member| member.optional = true);
                Type::Object(members)
            }
            resolved => resolved,
        }
    }

    /// The paths of the parts of a value that do not fit. `path` is the path of the value. An optional member can be null.
    pub fn misfits(&self, of: &Type, value: &Value, path: &str) -> Vec<String> {
        match (self.resolve(of), value) {
            (Type::Unknown, _) | (Type::Undefined, Value::Null) | (Type::Record, Value::Object(_)) => {
                Vec::new()
            }
            (Type::Kind(kind), _) if kind == kind_of(value) => Vec::new(),
            (Type::Literal(literal), _) if literal == *value => Vec::new(),
            (Type::Array(of), Value::Array(elements)) => elements
                .iter()
                .enumerate()
                .flat_map(|(n, element)| self.misfits(&of, element, &format!("{path}[{n}]")))
                .collect(),
            (Type::Object(members), Value::Object(given)) => members
                .iter()
                .flat_map(|(name, member)| {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    match given.get(name) {
                        None | Some(Value::Null) if member.optional => Vec::new(),
                        None => vec![path],
                        Some(value) => self.misfits(&member.of, value, &path),
                    }
                })
                .collect(),
            // The alternative with the deepest misfit is the one that was meant, such as the array type for an array.
            (Type::Union(parts), _) => parts
                .iter()
                .map(|part| self.misfits(part, value, path))
                .max_by_key(|misfits| (misfits.is_empty(), misfits.first().map_or(0, String::len)))
                .unwrap_or_default(),
            _ if path.is_empty() => vec!["payload".to_owned()],
            _ => vec![path.to_owned()],
        }
    }
}

impl Type {
    /// Whether null is one of its values.
    pub fn accepts_null(&self) -> bool {
        match self {
            Type::Unknown => true,
            Type::Kind(kind) => kind == "null",
            Type::Union(parts) => parts.iter().any(Type::accepts_null),
            _ => false,
        }
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Words, quoted strings and signs, without comments.
fn tokens(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = source.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("/*") {
            rest = rest.split_once("*/").map_or("", |(_, rest)| rest).trim_start();
            continue;
        } else if rest.starts_with("//") {
            rest = rest.split_once('\n').map_or("", |(_, rest)| rest).trim_start();
            continue;
        } else if first == '"' {
            2 + rest[1..].find('"').expect("a quote that ends")
        } else if first.is_alphanumeric() {
            rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        found.push(rest[..length].to_owned());
        rest = rest[length..].trim_start();
    }
    found
}

struct Reader<'a> {
    tokens: &'a mut std::iter::Peekable<std::vec::IntoIter<String>>,
}

impl Reader<'_> {
    fn next(&mut self) -> String {
        self.tokens.next().expect("more of the type")
    }

    fn take(&mut self, token: &str) -> bool {
        self.tokens.next_if(|next| next == token).is_some()
    }

    fn union(&mut self) -> Type {
        self.take("|");
        let mut parts = vec![self.single()];
        while self.take("|") {
            parts.push(self.single());
        }
        if parts.len() == 1 { parts.remove(0) } else { Type::Union(parts) }
    }

    fn single(&mut self) -> Type {
        let token = self.next();
        let mut of = match token.as_str() {
            "{" => self.members(),
            "unknown" => Type::Unknown,
            "undefined" => Type::Undefined,
            "null" | "boolean" | "number" | "string" => Type::Kind(token),
            "true" | "false" => Type::Literal((token == "true").into()),
            quoted if quoted.starts_with('"') => Type::Literal(quoted.trim_matches('"').into()),
            name => {
                let mut depth = u32::from(self.take("<"));
                let mut argument = None;
                while depth > 0 {
                    match self.next().as_str() {
                        "<" => depth += 1,
                        ">" => depth -= 1,
                        word => drop(argument.get_or_insert(word.to_owned())),
                    }
                }
                match (name, argument) {
                    ("Record", Some(_)) => Type::Record,
                    ("Partial", Some(of)) => Type::Named(of, true),
                    _ => Type::Named(token, false),
                }
            }
        };
        while self.take("[") {
            assert!(self.take("]"), "only arrays");
            of = Type::Array(Box::new(of));
        }
        of
    }

    /// The members of an object, up to its end. Index signatures are ignored.
    fn members(&mut self) -> Type {
        let mut members = BTreeMap::new();
        while !self.take("}") {
            if self.take("[") {
                while !self.take("]") {
                    self.next();
                }
                assert!(self.take(":"));
                self.union();
            } else {
                let name = self.next().trim_matches('"').to_owned();
                let optional = self.take("?");
                assert!(self.take(":"), "the type of {name}");
                members.insert(name, Member { optional, of: self.union() });
            }
            let _ = self.take(";") || self.take(",");
        }
        Type::Object(members)
    }
}
