//! The running program seen from outside: its log level, its threads.

use crate::hostile::world::{Answers, World};

#[test]
fn the_log_level_is_read_and_changed_while_it_runs() {
    let world = World::new(Answers::Short, &[]);
    let now = world.admin("GET", "/proxy-log-level", "");
    assert!(now.starts_with("HTTP/1.1 200") && now.contains("weft=info"), "{now}");
    let changed = world.admin("PUT", "/proxy-log-level", "warn,weft_proxy=debug");
    assert!(changed.starts_with("HTTP/1.1 204"), "{changed}");
    assert!(world.admin("GET", "/proxy-log-level", "").contains("weft_proxy=debug"));
    let wrong = world.admin("PUT", "/proxy-log-level", "weft=loudest");
    assert!(wrong.starts_with("HTTP/1.1 400"), "{wrong}");
    assert!(world.admin("GET", "/proxy-log-level", "").contains("weft_proxy=debug"), "the old one stays");
    let long = world.admin("PUT", "/proxy-log-level", &"x".repeat(5000));
    assert!(long.starts_with("HTTP/1.1 400"), "{long}");
    let other = world.admin("POST", "/proxy-log-level", "info");
    assert!(other.starts_with("HTTP/1.1 405") && other.contains("allow: GET, PUT"), "{other}");
}

#[test]
fn the_data_path_has_as_many_workers_as_its_settings_say() {
    // The number of processors is the ceiling, whatever the settings say.
    let processors = std::thread::available_parallelism().unwrap().get();
    for (workers, flags) in [(1, ["--cores-max", "1"]), (2.min(processors), ["--cores-min", "2"])] {
        let world = World::new(Answers::Short, &flags);
        world.serves();
        assert_eq!(world.threads("data"), workers, "{flags:?}");
    }
}
