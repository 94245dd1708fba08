//! S1 to S6: single blocks that cannot be read, or are not what they should be.

use crate::{common::faulty::Fault, rig::Rig, sim::small::corrupt};
use rustix::io::Errno;
use std::{fs, fs::File};
use synchromesh::storage::Backend;

/// What the kernel says of a bad sector, a bad checksum on the way, a lost link, a command that
/// took too long.
const ERRORS: [Errno; 5] = [Errno::IO, Errno::NODATA, Errno::ILSEQ, Errno::REMOTEIO, Errno::TIME];

/// `parking` is active and apart from the others. `city` alone has block 2, `highway` shares
/// blocks 4 to 7 with it.
fn rig(backend: Backend) -> Rig {
    let rig = Rig::new(backend, &[0..8, 4..16, 20..26]);
    rig.load("parking");
    rig
}

/// The tasks that need block 2 cannot be had, all others can, and when it is mended all can.
fn assert_only_city_is_lost(rig: Rig, mend: impl FnOnce(&Rig)) {
    assert_eq!(rig.switch("city"), Err(corrupt("city")));
    rig.assert_serves("parking");
    assert_eq!(rig.status().quarantined, 1);
    rig.load("highway");
    rig.assert_serves("highway");
    assert_eq!(rig.switch("city"), Err(corrupt("city")), "it is tried again, in vain");
    rig.assert_serves("highway");
    mend(&rig);
    let asked = rig.faults.asked();
    rig.load("city");
    assert_eq!(rig.faults.asked() - asked, 1, "what was read well was kept");
    rig.assert_serves("city");
    assert_eq!(rig.status().quarantined, 0, "what reads well is well");
    rig.finish();
}

fn s1_a_read_that_fails_once_is_made_again_and_counted(backend: Backend) {
    for errno in ERRORS {
        for fault in [Fault::Before(errno), Fault::After(errno)] {
            let rig = rig(backend);
            rig.faults.once(2, fault);
            rig.load("city");
            let status = rig.status();
            let counts = (status.read_again, status.mismatched, status.quarantined);
            assert_eq!(counts, (4, 0, 0), "the four blocks that were read with it");
            rig.assert_serves("city");
            rig.finish();
        }
    }
}

fn s2_a_block_that_can_never_be_read_is_data_loss_for_its_tasks_alone(backend: Backend) {
    for errno in ERRORS {
        let rig = rig(backend);
        rig.faults.always(2, Fault::Before(errno));
        assert_only_city_is_lost(rig, |rig| rig.faults.clear());
    }
    let rig = rig(backend);
    rig.faults.always(2, Fault::After(Errno::IO));
    assert_only_city_is_lost(rig, |rig| rig.faults.clear());
}

fn s2_two_bad_blocks_in_one_request_are_both_found(backend: Backend) {
    let rig = rig(backend);
    rig.faults.always(3, Fault::Before(Errno::IO));
    rig.faults.always(1, Fault::Flipped);
    assert_eq!(rig.switch("city"), Err(corrupt("city")));
    rig.settle();
    assert_eq!(rig.status().quarantined, 2);
    rig.assert_serves("parking");
    rig.finish();
}

fn s3_s5_a_block_that_arrives_wrong_once_is_read_again_and_counted(backend: Backend) {
    for fault in [Fault::Flipped, Fault::Misdirected] {
        let rig = rig(backend);
        rig.faults.once(2, fault);
        let asked = rig.faults.asked();
        rig.load("city");
        assert_eq!(rig.faults.asked() - asked, 8 + 1, "only the wrong one");
        let status = rig.status();
        let counts = (status.read_again, status.mismatched, status.quarantined);
        assert_eq!(counts, (1, 1, 0), "{fault:?}");
        rig.assert_serves("city");
        rig.finish();
    }
}

fn s3_a_block_that_fails_in_one_way_and_then_in_another_is_lost(backend: Backend) {
    for first in Fault::HARMFUL {
        for second in Fault::HARMFUL {
            let rig = rig(backend);
            rig.faults.once(2, first);
            rig.faults.once(2, second);
            assert_eq!(rig.switch("city"), Err(corrupt("city")), "{first:?}, then {second:?}");
            rig.assert_serves("parking");
            rig.load("city");
            rig.finish();
        }
    }
}

fn s4_a_block_damaged_on_the_disk_is_data_loss_until_it_is_mended(backend: Backend) {
    let rig = rig(backend);
    let sound = rig.content.blocks[2].clone();
    let mut damaged = sound.clone();
    damaged[1234] ^= 4;
    rig.overwrite(2, &damaged);
    assert_only_city_is_lost(rig, |rig| {
        assert_eq!(rig.status().mismatched, 2 + 2, "each time twice");
        assert_eq!(rig.failed_reads(), 0, "the device is content");
        rig.overwrite(2, &sound);
    });
}

fn s5_another_blocks_bytes_are_not_taken_for_a_blocks_own(backend: Backend) {
    let rig_with_fault = rig(backend);
    rig_with_fault.faults.always(2, Fault::Misdirected);
    assert_only_city_is_lost(rig_with_fault, |rig| rig.faults.clear());

    // A write that went to the wrong place, and so is there at each read.
    let rig = rig(backend);
    let (sound, other) = (rig.content.blocks[2].clone(), rig.content.blocks[6].clone());
    rig.overwrite(2, &other);
    assert_only_city_is_lost(rig, |rig| rig.overwrite(2, &sound));
}

fn s6_a_read_that_ends_early_is_made_again_and_then_given_up(backend: Backend) {
    let once = rig(backend);
    once.faults.once(2, Fault::Short);
    once.load("city");
    assert_eq!(once.status().read_again, 4);
    once.assert_serves("city");
    once.finish();

    let always = rig(backend);
    always.faults.always(2, Fault::Short);
    assert_only_city_is_lost(always, |rig| rig.faults.clear());
}

fn s6_of_a_file_that_was_cut_what_is_left_is_served(backend: Backend) {
    for cut_within in [0, 1, 2048, 4095] {
        let rig = rig(backend);
        let whole = fs::read(&rig.content.path).unwrap();
        let file = File::options().write(true).open(&rig.content.path).unwrap();
        file.set_len(rig.offset(14) + cut_within).unwrap();
        drop(file);
        assert_eq!(rig.switch("highway"), Err(corrupt("highway")));
        rig.settle();
        assert_eq!(rig.status().quarantined, 2, "the last two");
        assert_eq!(rig.failed_reads(), 1 + 2, "with the others, and each by itself");
        rig.assert_serves("parking");
        rig.load("city");
        rig.assert_serves("city");
        fs::write(&rig.content.path, whole).unwrap();
        rig.load("highway");
        rig.assert_serves("highway");
        rig.finish();
    }
}

on_both_backends! {
    s1_a_read_that_fails_once_is_made_again_and_counted,
    s2_a_block_that_can_never_be_read_is_data_loss_for_its_tasks_alone,
    s2_two_bad_blocks_in_one_request_are_both_found,
    s3_s5_a_block_that_arrives_wrong_once_is_read_again_and_counted,
    s3_a_block_that_fails_in_one_way_and_then_in_another_is_lost,
    s4_a_block_damaged_on_the_disk_is_data_loss_until_it_is_mended,
    s5_another_blocks_bytes_are_not_taken_for_a_blocks_own,
    s6_a_read_that_ends_early_is_made_again_and_then_given_up,
    s6_of_a_file_that_was_cut_what_is_left_is_served,
}
