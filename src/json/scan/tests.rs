//! The scanner against `serde_json`, whole and split at every byte.

use super::Scanner;

#[test]
fn finds_the_members() {
    let text = br#" { "a" : [1, {"x":[2]} ] , "b\u0063":{}, "d":"\"", "e":-1.5e3 } "#;
    let mut scanner = Scanner::new();
    scanner.scan(text).unwrap();
    let members: Vec<_> = scanner
        .members()
        .iter()
        .map(|m| (scanner.name(m), std::str::from_utf8(&text[m.value()]).unwrap()))
        .collect();
    assert_eq!(
        members,
        [
            ("a", r#"[1, {"x":[2]} ]"#),
            ("bc", "{}"),
            ("d", r#""\"""#),
            ("e", "-1.5e3")
        ]
    );
    let last = scanner.get("a").unwrap().last_item().unwrap();
    assert_eq!(&text[last], br#"{"x":[2]}"#);
    assert!(scanner.get("bc").unwrap().is_empty_container());
    assert_eq!(text[scanner.end()], b'}');
}
