//! The API server fails in every fifth request, where agents cut, of the operator. See `tourniquet_e2e::trouble`.

use tourniquet_e2e::{scenario, trouble};

#[test]
fn an_api_server_that_fails_now_and_then_is_borne() {
    scenario("faults", |s| async move { trouble::is_borne(&s).await });
}
