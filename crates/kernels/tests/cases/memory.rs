//! Copies to and from a device, and how its memory is counted.
use std::thread;

use candlewick_kernels::{Cuda, Error, Result, Workspace, elementwise};

use crate::harness::{opened, sizes};

fn counted(from: usize, len: usize) -> Vec<u32> {
    (from..from + len).map(|i| i as u32 ^ 0x5a5a_0000).collect()
}

#[test]
fn parts_of_a_buffer_are_written_and_read() {
    let Some(cuda) = opened() else { return };
    let mut buffer = cuda.upload(&counted(0, 1000)).unwrap();
    buffer.view_mut().part(300..307).unwrap().write(&[7; 7]).unwrap();
    buffer.view_mut().part(1000..1000).unwrap().write(&[]).unwrap();
    let expected = [counted(0, 300), vec![7; 7], counted(307, 693)].concat();
    assert_eq!(buffer.download().unwrap(), expected);
    let mut into = vec![0; 20];
    buffer.view().part(297..317).unwrap().read_into(&mut into).unwrap();
    assert_eq!(into, expected[297..317]);
    assert!(buffer.view().part(5..5).unwrap().download().unwrap().is_empty());
    let long = Err(Error::Length {
        op: "ViewMut::write",
        operand: "elements",
        got: 3,
        expected: 2,
        dims: "as many as there are",
    });
    assert_eq!(buffer.view_mut().part(0..2).unwrap().write(&[1; 3]), long);
    assert!(matches!(buffer.view().read_into(&mut into), Err(Error::Length { got: 20, expected: 1000, .. })));
}

/// Longer than what a copy takes at once, and not a multiple of it.
#[test]
fn long_buffers_are_copied_whole() {
    let Some(cuda) = opened() else { return };
    for len in sizes(&[1, (5 << 20) + 3], &[(2 << 20) - 1, 2 << 20, (4 << 20) + 1, (40 << 20) + 5]) {
        let elements = counted(3, len);
        let mut buffer = cuda.upload(&elements).unwrap();
        assert!(buffer.download().unwrap() == elements, "{len} elements");
        if len > 10 {
            buffer.view_mut().part(7..len).unwrap().write(&elements[..len - 7]).unwrap();
            assert!(
                buffer.view().part(5..len).unwrap().download().unwrap()[2..] == elements[..len - 7],
                "{len} elements"
            );
        }
    }
}

/// What is written is what the elements were at the call, though nobody waits for it, and however much is written at a time.
#[test]
fn elements_may_change_once_they_are_written() {
    let Some(cuda) = opened() else { return };
    let mut elements = vec![0u32; 700_001];
    let buffers: Vec<_> = (0..40u32)
        .map(|number| {
            elements.fill(number);
            cuda.upload(&elements[..elements.len() - number as usize]).unwrap()
        })
        .collect();
    elements.fill(u32::MAX);
    for (number, buffer) in buffers.iter().enumerate() {
        let found = buffer.download().unwrap();
        assert_eq!((found.len(), found.iter().all(|&x| x == number as u32)), (700_001 - number, true), "{number}");
    }
}

/// Threads write, compute and read at once, each on buffers of its own.
#[test]
fn threads_do_not_disturb_each_other() {
    fn work(cuda: &Cuda, thread: usize) -> Result<()> {
        let mut ws = Workspace::new(1);
        for turn in 0..20 {
            let len = 1000 + 37 * turn;
            let ones: Vec<f32> = (0..len).map(|i| (i * (thread + 1)) as f32).collect();
            let (mut y, x) = (cuda.upload(&ones)?, cuda.upload(&vec![turn as f32; len])?);
            elementwise::add_assign(y.view_mut(), x.view(), &mut ws)?;
            let expected: Vec<f32> = ones.iter().map(|one| one + turn as f32).collect();
            assert_eq!(y.download()?, expected, "thread {thread}, turn {turn}");
        }
        Ok(())
    }
    let Some(cuda) = opened() else { return };
    thread::scope(|scope| {
        let threads = [0, 1, 2]
            .map(|thread| (thread, cuda.clone()))
            .map(|(thread, cuda)| scope.spawn(move || work(&cuda, thread)));
        for thread in threads {
            thread.join().unwrap().unwrap();
        }
    });
    assert_eq!(cuda.memory().unwrap().used, 0);
}

#[test]
fn memory_is_counted_and_can_be_limited() {
    const MIB: usize = 1 << 20;
    let Some(cuda) = opened() else { return };
    let before = cuda.memory().unwrap();
    assert!(before.free <= before.total && before.free > 64 * MIB, "{before:?}");
    assert_eq!((before.used, before.most_used), (0, 0));
    let first = cuda.unwritten::<f32>(MIB).unwrap();
    let second = cuda.clone().unwritten::<u8>(MIB + 5).unwrap();
    drop(first);
    let memory = cuda.memory().unwrap();
    assert_eq!((memory.used, memory.most_used), (MIB + 5, 5 * MIB + 5));

    cuda.limit_memory(8 * MIB);
    let memory = cuda.memory().unwrap();
    assert_eq!((memory.free, memory.total), (7 * MIB - 5, 8 * MIB));
    let none = cuda.clone().unwritten::<u32>(2 * MIB).unwrap_err();
    assert_eq!(none, Error::OutOfMemory { op: "Cuda::unwritten", wanted: 8 * MIB, free: 7 * MIB - 5 });
    let words = none.to_string();
    assert!(words.contains("8 MiB of device memory are wanted") && words.contains("6 MiB are free"), "{words}");
    // What did not fit is not counted, and what is freed can be had again.
    let all = cuda.unwritten::<u8>(7 * MIB - 5).unwrap();
    assert!(matches!(cuda.upload(&[1u8]), Err(Error::OutOfMemory { wanted: 1, free: 0, .. })));
    drop((second, all));
    assert_eq!(cuda.unwritten::<f64>(MIB).unwrap().len(), MIB);
    // A size that no address has.
    assert!(matches!(cuda.unwritten::<f64>(usize::MAX), Err(Error::OutOfMemory { wanted: usize::MAX, .. })));
    assert_eq!(cuda.memory().unwrap().used, 0);
}

#[test]
fn buffers_of_a_handle_are_counted_apart() {
    let Some(cuda) = opened() else { return };
    let others = cuda.unwritten::<u8>(1000).unwrap();
    let (one, two) = (cuda.counted_apart(), cuda.counted_apart());
    let (first, second) = (one.clone().unwritten::<u8>(300).unwrap(), two.unwritten::<u8>(20).unwrap());
    let used = || [&cuda, &one, &two].map(|handle| handle.memory().unwrap().used);
    assert_eq!(used(), [1320, 300, 20]);
    // All have what the whole has left, and a limit of one's own is one of its buffers alone.
    cuda.limit_memory(2000);
    one.limit_memory(400);
    let free = [&cuda, &one, &two].map(|handle| handle.memory().unwrap().free);
    assert_eq!(free, [680, 100, 680]);
    assert!(matches!(one.unwritten::<u8>(101), Err(Error::OutOfMemory { wanted: 101, free: 100, .. })));
    assert!(matches!(two.unwritten::<u8>(681), Err(Error::OutOfMemory { wanted: 681, free: 680, .. })));
    assert_eq!(used(), [1320, 300, 20]);
    drop((others, first));
    assert_eq!((used(), one.memory().unwrap().most_used), ([20, 0, 20], 300));
    // They are on one device.
    let mut copy = one.unwritten::<u8>(20).unwrap();
    copy.copy_from(&second).unwrap();
}
