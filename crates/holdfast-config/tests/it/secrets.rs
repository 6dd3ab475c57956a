//! No problem, notice or debug output shows a secret.

use crate::{SERVERS, read};

const SECRET: &str = "hunter2-hunter2";

#[test]
fn problems_do_not_show_secrets() {
    for text in [
        format!("node: {{ secret: {SECRET} }}\n{SERVERS}"),
        format!("node: {{ secret: [{SECRET}] }}\n{SERVERS}"),
        format!("admin: {{ token: \"{}\" }}\n{SERVERS}", &SECRET[..8]),
        format!("auth: {{ keys: [{{ principal: a, sha256: {SECRET} }}] }}\n{SERVERS}"),
        format!("servers: {{ a: {{ url: \"http://a/\", headers: {{ A: \"{SECRET}\\n\" }} }} }}"),
        format!("servers: {{ a: {{ url: \"http://u:{SECRET}@a/\" }} }}"),
        format!("servers: {{ a: {{ url: \"a/?key={SECRET}\" }} }}"),
        format!("servers: {{ a: {{ url: \"http://a:0/?key={SECRET}\" }} }}"),
    ] {
        let problems = read(&text, &[]).unwrap_err();
        let shown = format!("{problems:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn what_a_variable_holds_is_not_shown() {
    for text in ["url: \"${S}\"", "command: \"x ${S}\"", "url: \"http://a/\", timeout: \"${S}\""] {
        let problems = read(&format!("servers: {{ a: {{ {text} }} }}"), &[("S", SECRET)]);
        let shown = format!("{:?}", problems.unwrap_err());
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    let secret = [("HOLDFAST_CLUSTER_SECRET", SECRET)];
    let shown = format!("{:?}", read(SERVERS, &secret).unwrap_err());
    assert!(!shown.contains("hunter2"), "{shown}");
    let url = [("SESSION_STORE_URL", "redis://:hunter2@redis")];
    let shown = format!("{:?}", read(SERVERS, &url).unwrap_err());
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn a_configuration_can_be_logged() {
    let text = "node: { secret: hunter2hunter2hunter2hunter2hunter2 }\n\
                admin: { token: hunter2hunter2hunter2 }\n\
                servers:\n  a: { url: \"http://a/\", headers: { Authorization: hunter2 } }\n  \
                b: { command: c, env: { TOKEN: hunter2 } }\n";
    let shown = format!("{:?}", read(text, &[]).unwrap());
    assert!(!shown.contains("hunter2"), "{shown}");
}
