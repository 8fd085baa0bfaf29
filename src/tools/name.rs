//! The names under which the model sees tools. They depend on the set of tools alone, not on its order: stable names
//! keep the provider's prompt cache valid.

use std::collections::{HashMap, HashSet};

use super::ToolDefinition;

/// [OpenAI's limit](https://platform.openai.com/docs/api-reference/chat/create) for a function's name.
const MAX: usize = 64;
/// The beginning of every injected name.
pub(crate) const PREFIX: &str = "bmcp_";
/// `_` and 8 hexadecimal digits.
const SUFFIX: usize = 9;
const FNV_OFFSET: u32 = 0x811c_9dc5;
const FNV_PRIME: u32 = 0x0100_0193;

/// One name for each definition, in the order given; all of them differ.
pub(super) fn assign(definitions: &[&ToolDefinition]) -> Vec<String> {
    let mut names: Vec<String> = definitions.iter().map(|definition| plain(definition)).collect();

    let mut uses: HashMap<&str, usize> = HashMap::with_capacity(names.len());
    for name in &names {
        *uses.entry(name).or_default() += 1;
    }
    let mut colliding: Vec<usize> = (0..names.len()).filter(|&index| uses[&*names[index]] > 1).collect();
    if colliding.is_empty() {
        return names;
    }

    let mut taken: HashSet<String> = uses
        .into_iter()
        .filter(|(_, uses)| *uses == 1)
        .map(|(name, _)| name.into())
        .collect();
    // The first tool gets the first free suffix, so which one is first must not depend on the given order. The sort is
    // stable: only tools that are the same in server and name keep their order.
    colliding.sort_by_key(|&index| (definitions[index].get_server(), definitions[index].name()));
    for index in colliding {
        let name = suffixed(definitions[index], &names[index], &taken);
        taken.insert(name.clone());
        names[index] = name;
    }
    names
}

fn plain(definition: &ToolDefinition) -> String {
    let clean = |char: char| {
        if char.is_ascii_alphanumeric() || char == '-' {
            char
        } else {
            '_'
        }
    };
    let name = definition
        .get_server()
        .chars()
        .chain(['_'])
        .chain(definition.name().chars())
        .map(clean);
    PREFIX.chars().chain(name).take(MAX).collect()
}

fn suffixed(definition: &ToolDefinition, plain: &str, taken: &HashSet<String>) -> String {
    // Only ASCII is left, so any index is a character border.
    let stem = &plain[..plain.len().min(MAX - SUFFIX)];
    let hash = fnv1a(FNV_OFFSET, definition.get_server().as_bytes());
    let hash = fnv1a(fnv1a(hash, &[0]), definition.name().as_bytes());
    // A free number is found after as many steps as there are tools, at most; nearly always it is the hash itself.
    let mut next = hash;
    loop {
        let name = format!("{stem}_{next:08x}");
        if !taken.contains(&name) {
            return name;
        }
        next = next.wrapping_add(1);
    }
}

/// [FNV-1a](https://datatracker.ietf.org/doc/draft-eastlake-fnv/), 32 bits; the standard library's hashes may change.
fn fnv1a(hash: u32, bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .fold(hash, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(FNV_PRIME))
}

#[cfg(test)]
pub(super) mod tests;
