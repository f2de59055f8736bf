//! The suite: each test is a function over [`Platform`], and `suite!` makes a module of tests for a platform.

mod answers;
mod faults;
mod long;
mod stops;
mod world;

/// All tests of the suite, for one platform.
macro_rules! suite {
    ($name:ident: $platform:ty) => {
        mod $name {
            use super::{answers, faults, long, stops};
            type P = $platform;

            #[test]
            fn a_message_is_answered_once_and_confirmed() {
                answers::once_and_confirmed::<P>();
            }
            #[test]
            fn a60_a61_a_message_that_is_delivered_again_is_answered_once() {
                answers::delivered_again::<P>();
            }
            #[test]
            fn a60_a_message_that_is_delivered_again_while_it_is_worked_on_is_asked_once() {
                answers::delivered_again_meanwhile::<P>();
            }
            #[test]
            fn a58_a61_killed_between_accept_and_reply() {
                answers::killed_before_the_reply::<P>();
            }
            #[test]
            fn a58_killed_right_at_the_delivery() {
                answers::killed_at_the_delivery::<P>();
            }
            #[test]
            fn a58_a_burst_is_answered_in_order() {
                answers::burst_in_order::<P>();
            }
            #[test]
            fn a58_a61_killed_in_a_burst() {
                answers::killed_in_a_burst::<P>();
            }
            #[test]
            fn a44_a_bad_credential_is_told_and_harms_nobody() {
                answers::bad_credential::<P>();
            }
            #[test]
            fn a44_a_credential_that_is_revoked_later_harms_nobody() {
                answers::revoked_credential::<P>();
            }

            #[test]
            fn a48_a_connection_that_swallows_everything_is_found_dead() {
                faults::black_hole::<P>();
            }
            #[test]
            fn a48_a_connection_that_only_looks_open_is_found_dead() {
                faults::forgotten::<P>();
            }
            #[test]
            fn a45_a_connection_that_is_reset_comes_back() {
                faults::reset::<P>();
            }
            #[test]
            fn a45_a_connection_that_is_cut_within_a_frame_comes_back() {
                faults::cut_in_a_frame::<P>();
            }
            #[test]
            fn a49_a_platform_that_goes_down_and_comes_back_is_found_again() {
                faults::down_and_back::<P>();
            }
            #[test]
            fn a61_a_reply_that_meets_a_fault_is_delivered_afterwards() {
                faults::reply_meets_a_fault::<P>();
            }

            #[test]
            fn a53_a_stop_while_connected() {
                stops::connected::<P>();
            }
            #[test]
            fn a80_a_stop_while_the_connect_hangs() {
                stops::connect_hangs::<P>();
            }
            #[test]
            fn a80_a_stop_while_the_platform_accepts_and_is_silent() {
                stops::silent_from_the_start::<P>();
            }
            #[test]
            fn a80_a_stop_while_the_upgrade_is_not_answered() {
                stops::silent_upgrade::<P>();
            }
            #[test]
            fn a80_a_stop_while_the_login_is_not_answered() {
                stops::silent_login::<P>();
            }
            #[test]
            fn a80_a_stop_while_it_waits_to_connect_again() {
                stops::waiting_to_reconnect::<P>();
            }
            #[test]
            fn a11_a_stop_in_the_middle_of_a_turn() {
                stops::in_a_turn::<P>();
            }
            #[test]
            fn a11_a_stop_while_a_reply_is_stuck() {
                stops::reply_is_stuck::<P>();
            }

            #[test]
            fn a54_a55_nothing_grows_over_reconnects() {
                long::reconnects::<P>();
            }
        }
    };
}

suite!(telegram: crate::support::telegram::Telegram);
suite!(feishu: crate::support::feishu::Feishu);
suite!(qqbot: crate::support::qqbot::QqBot);
suite!(weixin: crate::support::weixin::Weixin);
suite!(wecom: crate::support::wecom::Wecom);
suite!(homeassistant: crate::support::homeassistant::HomeAssistant);
