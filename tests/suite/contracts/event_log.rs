//! Contract of the port [`EventLog`]: one suite over every adapter.
//!
//! For another adapter, implement [`LogUnderTest`] and add a line `event_log_contract!(name, factory)`, where `factory` is
//! a `fn(partitions: i32) -> Box<dyn LogUnderTest>`. A new promise of the port gets a function in one of the modules
//! below, and its name a place in the macro.

mod appends;
mod groups;
mod kit;

use std::sync::Arc;

use stockwarden::adapters::embedded::log::{EmbeddedLog, Options};
use stockwarden::adapters::kafka::KafkaSettings;
use stockwarden::ports::EventLog;

use crate::support::kafka as broker;

/// A log with topics of its own, open and prepared.
pub trait LogUnderTest {
    fn log(&self) -> Arc<dyn EventLog>;
    /// As a restart of the process: gives up the handle and opens the same log again. Nobody else holds the old handle,
    /// nor a reader or member of it.
    fn reopen(&mut self);
    /// Another handle on the same log at the same time, where the adapter can have two.
    fn second(&self) -> Option<Arc<dyn EventLog>>;
}

macro_rules! event_log_contract {
    ($adapter:ident, $factory:expr) => {
        event_log_contract!(@tests $adapter, $factory,
            appends: [
                records_come_back_in_order_with_the_positions_that_append_gave,
                an_acknowledged_record_is_there_after_a_restart,
                records_go_where_their_key_says,
                keys_values_and_headers_come_back_as_they_were,
                a_value_of_one_megabyte_passes_and_one_beyond_the_bound_is_refused,
                an_atomic_append_is_seen_whole_or_not_at_all,
                appends_of_eight_threads_keep_each_threads_order,
                a_reader_stops_at_until_and_waits_no_longer_than_told,
                a_reader_goes_on_where_it_stopped,
                a_reader_waits_for_what_is_not_there_yet,
                topics_and_partitions_keep_apart,
                what_does_not_exist_is_refused,
                it_is_ready_once_prepared
            ],
            groups: [
                nothing_is_delivered_before_start,
                delivery_begins_where_start_says_and_goes_on_live,
                a_transaction_writes_records_and_offsets_together,
                a_refused_transaction_writes_nothing,
                committed_offsets_are_there_after_a_restart_and_per_group,
                a_refused_batch_is_offered_again_and_holds_up_no_other_partition,
                random_refusals_lose_double_and_reorder_nothing,
                leaving_revokes_first_and_fences_the_writer,
                what_is_drained_while_revoked_can_still_be_committed
            ]
        );
    };
    (@tests $adapter:ident, $factory:expr, $($module:ident: [$($test:ident),*]),*) => {
        mod $adapter {
            $($(
                #[test]
                fn $test() {
                    super::$module::$test($factory);
                }
            )*)*
        }
    };
}

event_log_contract!(embedded, super::Embedded::fresh);
event_log_contract!(kafka, super::Kafka::fresh);

/// Topics and groups of its own on the test run's broker.
struct Kafka {
    settings: KafkaSettings,
    log: Option<Arc<dyn EventLog>>,
}

impl Kafka {
    fn fresh(partitions: i32) -> Box<dyn LogUnderTest> {
        let mut settings = broker::fresh_settings(partitions);
        settings.max_record_bytes = kit::MAX_RECORD;
        let mut fresh = Kafka { settings, log: None };
        fresh.reopen();
        Box::new(fresh)
    }
}

impl LogUnderTest for Kafka {
    fn log(&self) -> Arc<dyn EventLog> {
        self.log.clone().expect("open")
    }

    fn reopen(&mut self) {
        self.log = None;
        self.log = Some(broker::open(&self.settings));
    }

    fn second(&self) -> Option<Arc<dyn EventLog>> {
        let settings = KafkaSettings { node_name: "node-2".into(), ..self.settings.clone() };
        Some(broker::open(&settings))
    }
}

struct Embedded {
    dir: tempfile::TempDir,
    partitions: i32,
    log: Option<Arc<dyn EventLog>>,
}

impl Embedded {
    fn fresh(partitions: i32) -> Box<dyn LogUnderTest> {
        let mut fresh = Embedded { dir: tempfile::tempdir().expect("folder"), partitions, log: None };
        fresh.reopen();
        Box::new(fresh)
    }
}

impl LogUnderTest for Embedded {
    fn log(&self) -> Arc<dyn EventLog> {
        self.log.clone().expect("open")
    }

    fn reopen(&mut self) {
        self.log = None;
        // Small segments, so that every test of any length meets their borders.
        let options = Options {
            partitions: self.partitions,
            segment_bytes: 256 << 10,
            max_record_bytes: kit::MAX_RECORD,
            clock: Arc::new(kit::now_ms),
        };
        let log = EmbeddedLog::open(self.dir.path(), options).expect("opens");
        log.prepare(kit::PATIENCE).expect("prepared");
        self.log = Some(log);
    }

    fn second(&self) -> Option<Arc<dyn EventLog>> {
        None
    }
}
