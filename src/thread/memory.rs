//! Memory: what the allocator may keep, and giving back what only a burst of work needed.
//!
//! Called by control before the first thread, and by the store thread when a burst of work is over. Nothing here blocks: the loader's lock is held for a walk over a short list.

/// Heaps beside the main one. glibc's default is eight a core, and each keeps what a burst on one thread left in it.
#[cfg(target_env = "gnu")]
const HEAPS_MAX: i32 = 2;
/// Allocations from this size on go back to the system when they are freed. glibc's default too, but its own default
/// grows with the first large body, and from then on bodies stay in the heap.
#[cfg(target_env = "gnu")]
const LARGE_BYTES: i32 = 128 * 1024;

/// Bounds what the allocator keeps. To be called once, before there are threads.
pub fn bound_allocator() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [(libc::M_ARENA_MAX, HEAPS_MAX), (libc::M_MMAP_THRESHOLD, LARGE_BYTES), (libc::M_TRIM_THRESHOLD, LARGE_BYTES)]
    {
        // SAFETY: mallopt takes two integers. A value that it does not know is refused and changes nothing.
        #[allow(unsafe_code)]
        unsafe {
            libc::mallopt(parameter, value);
        }
    }
}

/// Gives back what is not needed while nothing happens: free memory of the heaps, and pages of the program.
pub fn release() {
    // SAFETY: malloc_trim has no preconditions and may run beside allocations of other threads.
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code)]
    unsafe {
        libc::malloc_trim(0);
    }
    release_program();
}

/// Lets the pages of the program go. Most of them were used once, at the start; those that are still needed come back
/// from the page cache, sixteen at once, in about a microsecond.
fn release_program() {
    #[cfg(target_os = "linux")]
    program::release();
}

/// The pages of the program and its libraries that hold exactly what the file holds.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
mod program {
    use libc::{PT_DYNAMIC, PT_LOAD, c_int, c_void, dl_phdr_info, size_t};

    /// An entry of the dynamic section, as the ELF specification has it: both fields are as wide as a pointer.
    #[repr(C)]
    struct Dynamic {
        tag: isize,
        value: usize,
    }

    const DT_NULL: isize = 0;
    const DT_TEXTREL: isize = 22;
    const DT_FLAGS: isize = 30;
    const DF_TEXTREL: usize = 4;

    pub(super) fn release() {
        // SAFETY: `visit` has the signature that dl_iterate_phdr wants, does not unwind, and ignores the data pointer.
        unsafe {
            libc::dl_iterate_phdr(Some(visit), std::ptr::null_mut());
        }
    }

    /// Called for each loaded object, under the loader's lock. Must not panic or allocate.
    unsafe extern "C" fn visit(info: *mut dl_phdr_info, _size: size_t, _data: *mut c_void) -> c_int {
        // SAFETY: the loader hands over a valid structure, whose program headers stay mapped as long as the object does.
        let (base, headers) = unsafe {
            let info = &*info;
            (info.dlpi_addr as usize, std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)))
        };
        let dynamic = headers.iter().find(|header| header.p_type == PT_DYNAMIC);
        // SAFETY: PT_DYNAMIC is the address of the object's dynamic section, which ends with DT_NULL.
        if dynamic.is_none_or(|header| unsafe { writes_into_code((base + header.p_vaddr as usize) as *const Dynamic) }) {
            return 0;
        }
        // SAFETY: sysconf takes an integer.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        for header in headers.iter().filter(|header| header.p_type == PT_LOAD && header.p_flags & libc::PF_W == 0) {
            // Whole pages only: the first and the last may be shared with a segment that is written to.
            let begin = (base + header.p_vaddr as usize).next_multiple_of(page);
            let end = (base + (header.p_vaddr + header.p_filesz) as usize) / page * page;
            if end > begin {
                // SAFETY: these pages belong to a segment that is mapped from the file and that nobody writes to, not
                // even the loader: what is dropped is read again from the file when it is touched.
                unsafe {
                    libc::madvise(begin as *mut c_void, end - begin, libc::MADV_DONTNEED);
                }
            }
        }
        0
    }

    /// Whether the loader had to relocate the object's read-only segments, so that they differ from the file.
    ///
    /// # Safety
    /// `entry` must be the first entry of a dynamic section.
    unsafe fn writes_into_code(mut entry: *const Dynamic) -> bool {
        loop {
            // SAFETY: the section is mapped up to and with the entry DT_NULL, beyond which this does not go.
            let Dynamic { tag, value } = unsafe { entry.read() };
            match tag {
                DT_NULL => return false,
                DT_TEXTREL => return true,
                DT_FLAGS if value & DF_TEXTREL != 0 => return true,
                // SAFETY: as above, there is another entry.
                _ => entry = unsafe { entry.add(1) },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_goes_on_after_it_was_let_go() {
        bound_allocator();
        let kept: Vec<String> = (0..1000).map(|number| format!("number {number}")).collect();
        for _ in 0..3 {
            release();
            assert_eq!(kept.iter().map(String::len).sum::<usize>(), 9890);
            let panicked = std::panic::catch_unwind(|| panic!("tables for unwinding are read again too"));
            assert!(panicked.is_err());
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn code_that_was_used_once_is_not_resident_any_more() {
        let file_pages = || {
            let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
            let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).expect("RssFile").trim().to_owned();
            line.trim_end_matches(" kB").parse::<u64>().expect("a number")
        };
        // Other tests run at the same time and bring theirs back.
        let fell = (0..50).any(|_| {
            let before = file_pages();
            release();
            file_pages() < before
        });
        assert!(fell, "{} KiB", file_pages());
    }
}
