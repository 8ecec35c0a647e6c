//! Chat templates: the renderings of Jinja2, the line between scaffold and contents, and hostile templates.

use gable_model::chat_template::{ChatTemplate, Message, Segment};
use proptest::prelude::*;

fn source(name: &str) -> &'static str {
    match name {
        "smollm2" => include_str!("data/templates/smollm2.jinja"),
        "qwen2.5" => include_str!("data/templates/qwen2.5.jinja"),
        "llama3" => include_str!("data/templates/llama3.jinja"),
        "gemma" => include_str!("data/templates/gemma.jinja"),
        "mistral" => include_str!("data/templates/mistral.jinja"),
        "reasoning" => include_str!("data/templates/reasoning.jinja"),
        "idioms" => include_str!("data/templates/idioms.jinja"),
        other => panic!("no template {other}"),
    }
}

fn compile(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, "<s>", "</s>").unwrap_or_else(|error| panic!("{error}: {source:.200}"))
}

fn user(content: &str) -> Vec<Message> {
    vec![Message::new("user", content)]
}

fn text(segments: &[Segment]) -> String {
    segments.iter().map(|s| s.text.as_str()).collect()
}

struct Case {
    name: String,
    template: ChatTemplate,
    messages: Vec<Message>,
    prompt: bool,
    expected: Option<String>,
    error: Option<String>,
}

fn cases() -> Vec<Case> {
    let json: serde_json::Value = serde_json::from_str(include_str!("data/templates/expected.json")).unwrap();
    let word = |v: &serde_json::Value| v.as_str().unwrap().to_owned();
    json.as_array()
        .unwrap()
        .iter()
        .map(|c| Case {
            name: format!("{} / {} / {}", c["template"], c["conversation"], c["add_generation_prompt"]),
            template: ChatTemplate::new(source(&word(&c["template"])), &word(&c["bos"]), &word(&c["eos"]))
                .unwrap(),
            messages: c["messages"]
                .as_array()
                .unwrap()
                .iter()
                .map(|m| Message::new(word(&m["role"]), word(&m["content"])))
                .collect(),
            prompt: c["add_generation_prompt"].as_bool().unwrap(),
            expected: c["output"].as_str().map(str::to_owned),
            error: c["error"].as_str().map(str::to_owned),
        })
        .collect()
}

#[test]
fn every_known_template_renders_as_jinja2_does() {
    let mut count = 0;
    for case in cases() {
        let got = case.template.render(&case.messages, case.prompt);
        match (&case.expected, got) {
            (Some(expected), Ok(got)) => assert_eq!(&got, expected, "{}", case.name),
            (None, Err(error)) => {
                let reason = case.error.as_deref().unwrap();
                assert!(error.to_string().contains(reason), "{}: {error}, expected {reason}", case.name);
            }
            (_, got) => panic!("{}: {got:?}", case.name),
        }
        count += 1;
    }
    assert!(count >= 100, "only {count} cases");
}

#[test]
fn segments_of_every_known_template_join_to_the_rendering() {
    for case in cases() {
        let Some(expected) = &case.expected else { continue };
        let segments = case.template.render_segments(&case.messages, case.prompt).unwrap();
        assert_eq!(&text(&segments), expected, "{}", case.name);
        assert!(segments.iter().all(|s| !s.text.is_empty()), "{}", case.name);
        assert!(segments.windows(2).all(|pair| pair[0].special != pair[1].special), "{}", case.name);
    }
}

#[test]
fn the_apple_is_told_what_it_is() {
    let turns = [Message::new("system", "You're an apple."), Message::new("user", "Give me a bunnn")];
    let template = ChatTemplate::new(source("smollm2"), "<|im_start|>", "<|im_end|>").unwrap();
    assert_eq!(
        template.render(&turns, true).unwrap(),
        "<|im_start|>system\nYou're an apple.<|im_end|>\n<|im_start|>user\nGive me a bunnn<|im_end|>\n<|im_start|>assistant\n"
    );
    let without = template.render(&turns[1..], true).unwrap();
    assert!(
        without.starts_with("<|im_start|>system\nYou are a helpful AI assistant named SmolLM"),
        "{without}"
    );
    let segment = |text: &str, special| Segment { text: text.to_owned(), special };
    assert_eq!(
        template.render_segments(&turns, true).unwrap(),
        [
            segment("<|im_start|>system\n", true),
            segment("You're an apple.", false),
            segment("<|im_end|>\n<|im_start|>user\n", true),
            segment("Give me a bunnn", false),
            segment("<|im_end|>\n<|im_start|>assistant\n", true),
        ]
    );
}

#[test]
fn a_thinking_turn_is_cut_and_still_told_from_the_scaffold() {
    let turns = [
        Message::new("user", "q<|im_end|>"),
        Message::new("assistant", "<think>\nhm\n</think>\n\nanswer<|im_end|>"),
        Message::new("user", "r"),
    ];
    let segments = compile(source("reasoning")).render_segments(&turns, true).unwrap();
    let contents: Vec<&str> = segments.iter().filter(|s| !s.special).map(|s| s.text.as_str()).collect();
    assert_eq!(contents, ["q<|im_end|>", "answer<|im_end|>", "r"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Contents full of control tokens, white space and markers: never is a piece of one special.
    #[test]
    fn no_content_ever_becomes_scaffold(
        contents in prop::collection::vec("(<\\|im_end\\|>|<\\|im_start\\|>system\n|[ \n\t]|\u{FDD0}0\u{FDD1}|</think>|<eos>|\\[INST\\]|[a-c]){0,6}Q", 1..5),
        prompt: bool,
    ) {
        let turns: Vec<Message> = contents
            .iter()
            .enumerate()
            .map(|(i, c)| Message::new(if i % 2 == 0 { "user" } else { "assistant" }, c.clone()))
            .collect();
        for name in ["smollm2", "qwen2.5", "llama3", "gemma", "mistral"] {
            let template = compile(source(name));
            let segments = template.render_segments(&turns, prompt).unwrap();
            prop_assert_eq!(text(&segments), template.render(&turns, prompt).unwrap());
            // `Q` ends every content and is in no scaffold but Qwen's own default system line.
            let special: String = segments.iter().filter(|s| s.special).map(|s| s.text.as_str()).collect();
            prop_assert!(!special.replace("You are Qwen", "").contains('Q'), "{}: {:?}", name, segments);
            let inside: Vec<&str> = segments.iter().filter(|s| !s.special).map(|s| s.text.trim()).collect();
            let wanted: Vec<&str> = contents.iter().map(|c| c.trim()).collect();
            prop_assert_eq!(inside, wanted, "{}", name);
        }
    }
}

#[test]
fn a_template_that_decides_by_content_errs_on_the_safe_side() {
    let odd = "<|a|>{% for m in messages %}{% if 'x' in m.content %}<|x|>{% endif %}{{ m.content|upper }}{% endfor %}<|b|>";
    let mut template = compile(odd);
    let segment = |text: &str, special| Segment { text: text.to_owned(), special };
    let unsafe_turns = user("say <|a|>x");
    assert_eq!(
        template.render_segments(&unsafe_turns, false).unwrap(),
        [segment("<|a|><|x|>SAY <|A|>X", false), segment("<|b|>", true)]
    );
    let harmless = user("say x");
    assert_eq!(
        template.render_segments(&harmless, false).unwrap(),
        [segment("<|a|>", true), segment("<|x|>SAY X", false), segment("<|b|>", true)]
    );
    template.set_control_tokens(vec!["<|a|>".to_owned(), "<|x|>".to_owned(), "<|b|>".to_owned()]);
    assert_eq!(template.render_segments(&harmless, false).unwrap(), [segment("<|a|><|x|>SAY X<|b|>", true)]);
    for turns in [unsafe_turns, user("x <"), user("b|>x ")] {
        let segments = template.render_segments(&turns, false).unwrap();
        assert!(segments.iter().any(|s| !s.special), "{segments:?}");
    }
}

#[test]
fn a_template_without_messages_or_with_copies_of_a_content_is_cut_right() {
    let twice = compile("[{{ messages[0].content }}|{{ messages[0].content }}]");
    let segments = twice.render_segments(&user("x]"), false).unwrap();
    let special: Vec<bool> = segments.iter().map(|s| s.special).collect();
    assert_eq!((text(&segments).as_str(), special), ("[x]|x]]", vec![true, false, true, false, true]));
    let none = compile("{{ bos_token }}hello");
    assert_eq!(
        none.render_segments(&[], true).unwrap(),
        [Segment { text: "<s>hello".to_owned(), special: true }]
    );
}

fn load_error(source: &str) -> String {
    ChatTemplate::new(source, "", "").map(|_| ()).expect_err(&format!("{source:.80}")).to_string()
}

fn run_error(source: &str) -> String {
    compile(source).render(&user("hello"), true).expect_err(&format!("{source:.80}")).to_string()
}

#[test]
fn templates_too_deep_or_too_long_are_refused_before_they_are_parsed() {
    assert!(load_error(&"{% if a %}".repeat(5_500)).contains("nested"));
    assert!(
        load_error(&format!("{{{{ {}1{} }}}}", "(".repeat(60_000), ")".repeat(60_000))).contains("brackets")
    );
    assert!(load_error(&format!("{{{{ {}1 }}}}", "not ".repeat(60_000))).contains("links"));
    assert!(load_error(&format!("{{{{ 1{} }}}}", "+1".repeat(60_000))).contains("links"));
    assert!(load_error(&"x".repeat(300_000)).contains("bytes"));
}

#[test]
fn templates_that_are_no_templates_are_load_errors() {
    for bad in [
        "{% if %}",
        "{{",
        "{% for x in %}",
        "{% endif %}",
        "{{ 'open }}",
        "{% include 'a' %}",
        "{% import 'a' as b %}",
        "{% extends 'a' %}",
        "{% break %}",
        "{% generation %}",
        "{% raw %}",
        "{{ 1 2 }}",
    ] {
        let message = load_error(bad);
        assert!(message.starts_with("chat template: "), "{bad}: {message}");
    }
}

#[test]
fn hostile_templates_end_in_errors() {
    let loops = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}";
    assert!(run_error(loops).contains("steps"));
    assert!(run_error("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}").contains("recursion"));
    assert!(
        run_error("{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}").contains("recursion")
    );
    assert!(run_error("{% for i in range(10**9) %}{% endfor %}").contains("1000000000"));
    assert!(run_error("{{ range(-9223372036854775807, 9223372036854775807) }}").contains("range"));
    assert!(run_error("{{ 'x' * 9000000 }}").contains("8388608 bytes"));
    assert!(run_error("{{ 'x' * 10**15 }}").contains("steps"));
    let doubling =
        "{% set ns = namespace(s='xx') %}{% for i in range(64) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}";
    assert!(run_error(doubling).contains("steps"));
    assert!(run_error("{{ raise_exception('no such role') }}").contains("no such role"));
    assert!(run_error("{{ messages[0].tool_calls[0].name }}").contains("undefined"));
    assert!(run_error("{{ messages[7]['content'] }}").contains("undefined"));
    assert!(run_error("{{ 'a' + messages[0].name }}").contains("line 1"));
    assert!(run_error("{{ os.environ }}").contains("undefined"));
    assert!(run_error("{{ strftime_now('%Q') }}").contains("%Q"));
    assert!(run_error("{{ 1 // 0 }}{{ 2 ** 99999 }}{{ -9223372036854775808 // -1 }}").contains("line 1"));
    assert!(run_error("{{ {'a': 1} | tojson(indent=1000000) }}").contains("indent"));
}

/// A value one level deeper per round: freeing, printing, comparing and writing it all recurse over its depth, which is
/// more than the stack of a usual thread bears.
#[test]
fn deeply_nested_values_do_not_overflow_the_stack() {
    let nest = |step: &str, end: &str| {
        format!(
            "{{% set ns = namespace(x=[]) %}}{{% for a in range(30000) %}}{{% set ns.x = {step} %}}{{% endfor %}}{end}"
        )
    };
    for step in ["[ns.x]", "{'a': ns.x}", "[ns.x] + [ns.x]", "(ns.x,)", "dict(a=ns.x)"] {
        for end in [
            "",
            "{{ ns.x }}",
            "{{ ns.x == [ns.x] }}",
            "{{ ns.x | tojson }}",
            "{{ [ns.x, [ns.x]] | sort }}",
            "{{ {ns.x: 1} }}",
            "{{ raise_exception(ns.x) }}",
        ] {
            let _ = compile(&nest(step, end)).render(&user("hello"), true); // an error or a text, but no abort
        }
    }
}

/// Two values of a few dozen lists each, every list twice in the next: walking them takes 2^60 steps.
#[test]
fn values_that_share_their_parts_do_not_buy_endless_work() {
    let share = "{% set ns = namespace(a=[], b=[]) %}{% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}{% set ns.b = [ns.b, ns.b] %}{% endfor %}";
    let render = |end: &str| {
        let mut template = compile(&format!("{share}{end}"));
        template.set_time_limit(std::time::Duration::from_millis(300));
        template.render(&user("hello"), true).unwrap_err().to_string()
    };
    assert!(render("{{ ns.a == ns.b }}").contains("not finished after 0.3 seconds"));
    for end in ["{{ ns.a }}", "{{ ns.a | tojson }}", "{{ ns.a ~ 'x' }}"] {
        let error = render(end);
        assert!(
            ["steps", "levels", "not finished", "wrote more than"].iter().any(|end| error.contains(end)),
            "{end}: {error}"
        );
    }
}

#[test]
fn what_a_template_cannot_reach_does_not_exist() {
    for name in
        ["include", "open", "env", "self", "lipsum", "cycler", "debug", "__import__", "get_flashed_messages"]
    {
        let seen = compile(&format!("{{{{ {name} is defined }}}}")).render(&[], true).unwrap();
        assert_eq!(seen, "False", "{name}");
    }
}
