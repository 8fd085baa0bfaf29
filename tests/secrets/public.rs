//! The `Debug` output of the public types.

use super::*;

#[test]
fn nothing_public_shows_a_key() {
    let mut words = String::new();
    let keys = pool(4);
    let key = ApiKey::new(KEYS[0]).unwrap();
    show(&mut words, &key);
    show(&mut words, key.hint());
    show(&mut words, &keys);
    show(&mut words, &keys.snapshot());
    show(&mut words, &VerdictTable::default());
    let errors = [
        KeyPool::from_secrets([KEYS[0], KEYS[0]]).unwrap_err(),
        KeyPool::from_secrets([format!("{}\n", KEYS[0])]).unwrap_err(),
        ApiKey::new(format!(" {}", KEYS[0])).unwrap_err(),
        keys.replace([ApiKey::new(KEYS[1]).unwrap(), ApiKey::new(KEYS[1]).unwrap()])
            .unwrap_err(),
    ];
    for error in errors {
        show(&mut words, &error);
        words += &error.to_string();
    }
    let invalid = Credential::bearer(&format!("{OWN}\n")).unwrap_err();
    show(&mut words, &invalid);
    words += &invalid.to_string();
    let credential = Credential::bearer(OWN).unwrap();
    show(&mut words, &credential);
    show(&mut words, credential.hint());
    let mut request = Request::post("/v1/chat/completions")
        .body(Empty::<bytes::Bytes>::new())
        .unwrap();
    request.extensions_mut().insert(credential);
    show(&mut words, &request);
    show(&mut words, request.extensions());

    let (recorder, events) = Recorder::channel(1);
    let tool: Tool = echo();
    show(&mut words, &recorder);
    show(&mut words, &events);
    show(&mut words, &tool);
    let layer = BridgeLayer::new()
        .pool(keys)
        .recorder(recorder)
        .tools(Tools::new([tool]));
    show(&mut words, &layer);
    let mut service = layer.layer(Provider::answering(|_| completion("hello").into()));
    show(&mut words, &service);
    show(&mut words, &service.call(request));
    show(&mut words, &service.call(Request::get("/").body(Empty::new()).unwrap()));
    show(&mut words, &RequestBody::passthrough(()));
    show(&mut words, &ResponseBody::passthrough(()));
    show(&mut words, &Credential::bearer(OWN).map(|own| (own.clone(), own)));
    assert_silent("debug output", &words);
    // The keys were there to be shown.
    assert!(
        words.contains("sk-f...cdef") && words.contains("sk-o...cdef"),
        "{words}"
    );
}
