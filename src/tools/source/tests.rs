//! When a changed source changes its sets.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use arc_swap::ArcSwap;

use super::{super::tests::tool, *};

#[test]
fn each_set_of_a_live_source_is_changed_once() {
    let current = Arc::new(ArcSwap::from_pointee(Tools::new([tool("s", "a"), tool("s", "b")])));
    let source = ToolSource::from_fn({
        let current = Arc::clone(&current);
        move || Tools::clone(&current.load())
    });
    let changes = Arc::new(AtomicUsize::new(0));
    let source = source.map({
        let changes = Arc::clone(&changes);
        move |tools| {
            changes.fetch_add(1, Ordering::SeqCst);
            tools.filter(|tool| tool.definition().name() != "b")
        }
    });
    assert_eq!(changes.load(Ordering::SeqCst), 0);
    let first = source.current();
    assert!(first.names().eq(["bmcp_s_a"]));
    assert!(first.is_same(&source.current()));
    assert_eq!(changes.load(Ordering::SeqCst), 1);

    current.store(Arc::new(Tools::new([tool("s", "b"), tool("s", "c")])));
    assert!(source.current().names().eq(["bmcp_s_c"]));
    assert!(source.current().names().eq(["bmcp_s_c"]));
    assert_eq!(changes.load(Ordering::SeqCst), 2);
}

#[test]
fn a_change_that_panicked_is_tried_again() {
    let panics = AtomicUsize::new(0);
    let source = ToolSource::from_fn(|| Tools::new([tool("s", "a")])).map(move |tools| {
        assert!(panics.fetch_add(1, Ordering::SeqCst) > 0, "the first change fails");
        tools
    });
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| source.current()));
    assert!(failed.is_err());
    assert_eq!(source.current().len(), 1);
}

#[test]
fn a_fixed_source_stays_fixed() {
    let source = ToolSource::from(Tools::new([tool("s", "a")])).map(|tools| tools.merge([tool("s", "b")]));
    assert!(source.current().is_same(&source.current()));
    assert_eq!(source.current().len(), 2);
}
