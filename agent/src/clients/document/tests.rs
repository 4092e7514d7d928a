use serde_json::json;

use super::*;

const MAP: &[Place] = &[Place { path: &["servers"], named_by: None }];
const LIST: &[Place] = &[Place { path: &["servers"], named_by: Some("name") }];

fn fields(name: &str) -> Map<String, Value> {
    match json!({"name": name, "command": "/bin/m", "args": ["run", "a b"]}) {
        Value::Object(map) => map,
        _ => unreachable!(),
    }
}

fn added(format: Format, places: &[Place], text: &str) -> String {
    let mut document = Document::parse(format, places, text).unwrap();
    document.put("m", &fields("m")).unwrap_or_else(|fault| panic!("{fault}: {text}"));
    document.text()
}

/// Adds an entry, checks that it is found again, takes it out, and returns both texts.
fn there_and_back(format: Format, places: &[Place], text: &str) -> (String, String) {
    let with = added(format, places, text);
    let mut document = Document::parse(format, places, &with).unwrap();
    assert_eq!(document.entries().last().unwrap().0, "m", "{with}");
    document.remove("m").unwrap_or_else(|fault| panic!("{fault}: {with}"));
    (with, document.text())
}

#[test]
fn yaml_in_block_style_gets_an_entry_at_its_own_indentation() {
    let entry = "name: m\n    command: /bin/m\n    args:\n      - run\n      - \"a b\"\n";
    for (before, column) in [
        ("servers:\n  a:\n    x: 1\n", 2),
        ("servers:\n  a:\n    x: 1\n\n# end\nother: 1\n", 2),
        ("# head\nservers: # mine\n  # a\n  a: {x: 1} # one\n  # tail\nother:\n  - 1\n", 2),
    ] {
        let (with, without) = there_and_back(Format::Yaml, MAP, before);
        let block = format!("{}m:\n    {entry}", " ".repeat(column));
        assert!(with.contains(&block), "{with}");
        assert_eq!(without, before, "{with}");
    }
}

#[test]
fn yaml_of_every_layout_survives_an_entry_that_comes_and_goes() {
    for before in [
        "servers:\n    a:\n        x: 1\n",
        "a: 1\nservers:\n  a:\n    x: |\n      # text\n\n      more\n    y: 2\n\n\n# c\nb: 2\n",
        "a: 1\nservers:\n  a:\n    x: >-\n      folded\n      text\nb: 2\n",
        "servers:\n  \"quoted key\": {a: [1, 2]}\n  'b': &anchor {c: 1}\nuse: *anchor\n",
        "servers: {a: {x: 1}}\n",
        "servers: {a: {x: 1}, b: {y: [1, 2]}} # tail\nz: 1\n",
        "%YAML 1.2\n---\nservers:\n  a: {}\n",
        "servers:\n  a:\n    list:\n    - 1\n    - 2\n",
        "servers:\n  ä: {ö: ü}\n# ß\nn: 1\n",
        "servers:\r\n  a:\r\n    x: 1\r\nb: 2\r\n",
        "\u{feff}servers:\n  a:\n    x: 1\n",
        "servers:\n  a:\n    x: 1",
    ] {
        let (with, without) = there_and_back(Format::Yaml, MAP, before);
        assert_eq!(without, before, "{with}");
    }
    for before in [
        "servers:\n- name: a\n  x: 1\nb: 1\n",
        "servers:\n  - name: a\n    x:\n      - 1\n  # c\n  - name: b\n\n# d\nb: 1\n",
        "servers:\n  -\n    name: a\n  -   name: b\n      x: 1\nz: 1\n",
        "servers: [{name: a}]\n",
        "servers:\n  - {name: a, x: 1} # c\n  - uses: ./other.yaml\n",
    ] {
        let (with, without) = there_and_back(Format::Yaml, LIST, before);
        assert_eq!(without, before, "{with}");
    }
}

#[test]
fn yaml_without_servers_gets_them_at_its_end_or_where_the_key_is() {
    for (before, after) in [
        ("", ""),
        ("# only words\n", "# only words\n"),
        ("a: 1\n", "a: 1\n"),
        ("a:\n  - 1\n# end\n", "a:\n  - 1\n# end\n"),
    ] {
        let with = added(Format::Yaml, MAP, before);
        assert_eq!(with, format!("{after}servers:\n  m:\n    name: m\n    command: /bin/m\n    args:\n      - run\n      - \"a b\"\n").replace("\n\n", "\n"), "{before:?}");
    }
    for before in [
        "servers:\n",
        "servers: {}\n",
        "servers: {} # c\nb: 1\n",
        "servers: # c\n  # d\nb: 1\n",
        "servers: null\nb: 1\n",
        "servers: ~\n",
    ] {
        let (with, without) = there_and_back(Format::Yaml, MAP, before);
        let again = Document::parse(Format::Yaml, MAP, &without).unwrap();
        assert!(again.entries().is_empty(), "{with}");
        assert!(without.contains("{}"), "{without}");
        assert_eq!(before.contains("# c"), without.contains("# c"), "{without}");
    }
}

#[test]
fn yaml_fields_are_replaced_where_they_stand() {
    let before = "servers:\n  m: # mine\n    name: m # n\n    command: old # c\n    args:\n    - run\n    - x\n    z: 1\nb: 1\n";
    let mut document = Document::parse(Format::Yaml, MAP, before).unwrap();
    document.put("m", &fields("m")).unwrap();
    assert_eq!(
        document.text(),
        "servers:\n  m: # mine\n    name: m # n\n    command: /bin/m # c\n    args:\n      - run\n      - \"a b\"\n    z: 1\nb: 1\n"
    );
    let flow = "servers: {m: {name: m, command: old}, b: {x: 1}}\n";
    let mut document = Document::parse(Format::Yaml, MAP, flow).unwrap();
    document.put("m", &fields("m")).unwrap();
    assert_eq!(
        document.text(),
        "servers: {m: {name: m, command: /bin/m, args: [run, \"a b\"]}, b: {x: 1}}\n"
    );
}

#[test]
fn toml_of_every_layout_survives_an_entry_that_comes_and_goes() {
    for before in [
        "",
        "a = 1\n",
        "# head\na = 1 # c\n\n[b]\nc = 1\n",
        "[servers.a]\nx = 1\n\n# about b\n[b]\nc = 1\n",
        "[servers]\n\n[servers.a]\nx = 1\n[servers.a.env]\nK = \"v\"\n\n[z]\n",
        "[servers]\na = { x = 1 }\n\n[z]\n",
        "servers = { a = { x = 1 } }\n",
        "servers.a.x = 1\n",
        "[servers.a]\r\nx = 1\r\n\r\n[b]\r\n",
        "[servers.\"a b\"]\nx = '''\n# text\n'''\nd = 1979-05-27T07:32:00Z\n",
    ] {
        let (with, without) = there_and_back(Format::Toml, MAP, before);
        let again = Document::parse(Format::Toml, MAP, &without).unwrap();
        assert!(again.entries().iter().all(|(name, _)| name != "m"));
        assert_eq!(without.trim_end(), before.trim_end(), "{with}");
    }
}

#[test]
fn json_of_every_layout_survives_an_entry_that_comes_and_goes() {
    for before in [
        "{\n  \"servers\": {\n    \"a\": {}\n  }\n}\n",
        "// head\n{\n\t\"servers\": {\n\t\t\"a\": {}, // c\n\t\t// tail\n\t}, /* d */\n\t\"z\": 1.50\n}\n// foot\n",
        "{\r\n  \"servers\": {\r\n    \"a\": {}\r\n  }\r\n}",
        "{\n  \"servers\": {\n    \"a\": {} // why a\n  }\n}\n",
        "\u{feff}{\n  \"servers\": {\n    \"a\": {}\n  },\n  \"n\": 123456789012345678901234567890\n}\n",
    ] {
        let (with, without) = there_and_back(Format::Json, MAP, before);
        assert_eq!(without, before, "{with}");
    }
    for before in ["", "  \n", "{}", "// c\n", "{\"servers\": null}", "{\"servers\": {}, \"a\": 1}"]
    {
        let (_, without) = there_and_back(Format::Json, MAP, before);
        assert!(Document::parse(Format::Json, MAP, &without).unwrap().entries().is_empty());
        assert_eq!(before.contains("// c"), without.contains("// c"));
    }
}

#[test]
fn a_change_that_would_say_something_else_is_refused() {
    // The same name twice: an editor changes the first, a client reads the last.
    let twice = "{\"servers\": {\"a\": {}}, \"servers\": {\"b\": {}}}";
    let mut document = Document::parse(Format::Json, MAP, twice).unwrap();
    assert_eq!(document.put("m", &fields("m")), Err(Fault::Unfaithful));
    assert_eq!(document.text(), twice);
}

#[test]
fn texts_that_yaml_would_take_for_something_else_are_quoted() {
    let mut document = Document::parse(Format::Yaml, MAP, "").unwrap();
    let awkward = [
        "yes", "1", "null", "", " a", "a: b", "#x", "- x", "é\n", "C:\\x y", "*a", "1e3", "@a",
        "\u{7}",
    ];
    let entry = Map::from_iter([("args".to_owned(), json!(awkward))]);
    document.put("no", &entry).unwrap();
    assert_eq!(document.entries(), [("no".to_owned(), json!({"args": awkward}))]);
}

proptest::proptest! {
    #[test]
    fn entries_of_any_text_can_be_added_and_removed(
        key in "\\PC{1,12}", value in "\\PC{0,12}", format in 0..3_usize
    ) {
        let format = [Format::Json, Format::Yaml, Format::Toml][format];
        let mut document = Document::parse(format, MAP, "").unwrap();
        let entry = Map::from_iter([("k".to_owned(), json!([value.clone()])), ("v".to_owned(), json!(value))]);
        document.put("first", &entry).unwrap();
        let before = document.text();
        document.put(&format!("x{key}"), &entry).unwrap();
        proptest::prop_assert_eq!(document.entries().len(), 2);
        document.remove(&format!("x{key}")).unwrap();
        proptest::prop_assert_eq!(document.text(), before);
    }
}
