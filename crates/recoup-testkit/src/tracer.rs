//! A task that is stopped at its system calls and between its instructions (ptrace(2)).

#![expect(unsafe_code, reason = "ptrace(2) has no safe wrapper here")]

use std::ffi::c_void;

use libc::c_long;

/// A traced task, which is stopped but where a function here lets it run. Whatever happens to the test,
/// it doesn't outlive the thread that traces it, unless it was let go.
#[derive(Debug)]
pub struct Tracee {
    pid: i32,
    /// To be delivered when it goes on.
    signal: i32,
    ended: bool,
}

/// A system call that is about to be made.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Which one (`SYS_*`).
    pub number: c_long,
    /// What it is given.
    pub arguments: [u64; 6],
}

impl Call {
    /// Whether it is ioctl(2) with this request.
    #[must_use]
    pub fn is_ioctl(&self, request: u64) -> bool {
        self.number == libc::SYS_ioctl && self.arguments[1] == request
    }
}

/// Why a task stopped.
#[derive(Clone, Copy, Debug)]
enum Stop {
    Before(Call),
    After,
    /// It has made another task, which is traced as well.
    Made(i32),
    /// After an instruction, by a signal, or because it was asked to.
    Between,
    Ended,
}

/// Where a task is to be killed.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// After so many stops before and after its system calls.
    pub stops: u64,
    /// And then so many instructions.
    pub steps: u64,
}

impl Tracee {
    /// Stops a running task, in the midst of whatever it does.
    ///
    /// # Panics
    /// If it cannot be traced.
    #[must_use]
    pub fn seize(pid: i32) -> Self {
        let options =
            libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_EXITKILL;
        let mut tracee = Self::of(pid);
        tracee.request(libc::PTRACE_SEIZE, 0, options.cast_unsigned() as usize);
        tracee.request(libc::PTRACE_INTERRUPT, 0, 0);
        tracee.wait();
        tracee
    }

    fn of(pid: i32) -> Self {
        Self { pid, signal: 0, ended: false }
    }

    /// Runs until it has made a companion; that one has not yet run an instruction.
    ///
    /// Companions ask not to be traced with whoever makes them. That wish is taken out of the call.
    ///
    /// # Panics
    /// If it ends before.
    #[must_use]
    pub fn companion(&mut self) -> Self {
        loop {
            match self.go(libc::PTRACE_SYSCALL) {
                Stop::Before(call) if call.number == libc::SYS_clone => {
                    let untraced = u64::from(libc::CLONE_UNTRACED.cast_unsigned());
                    let flags = usize::try_from(call.arguments[0] & !untraced).expect("64 bits");
                    let place = std::mem::offset_of!(libc::user_regs_struct, rdi);
                    self.request(libc::PTRACE_POKEUSER, place, flags);
                }
                Stop::Made(pid) => {
                    let mut made = Self::of(pid);
                    made.wait();
                    return made;
                }
                Stop::Ended => panic!("it ended before it made a companion"),
                _ => {}
            }
        }
    }

    /// Runs to a moment, or until `over` says so of a call that is about to be made, or until it ends.
    /// Returns how many stops before and after system calls there were.
    pub fn run_to(&mut self, moment: Moment, mut over: impl FnMut(&Call) -> bool) -> u64 {
        let mut made = 0;
        while made < moment.stops {
            match self.go(libc::PTRACE_SYSCALL) {
                Stop::Before(call) if over(&call) => return made,
                Stop::Before(_) | Stop::After => made += 1,
                Stop::Made(worker) => Self::leave_alone(worker),
                Stop::Between => {}
                Stop::Ended => return made,
            }
        }
        for _ in 0..moment.steps {
            match self.go(libc::PTRACE_SINGLESTEP) {
                Stop::Made(worker) => Self::leave_alone(worker),
                Stop::Ended => break,
                _ => {}
            }
        }
        made
    }

    /// Lets a task run on that a traced one has made.
    fn leave_alone(pid: i32) {
        let mut made = Self::of(pid);
        made.wait();
        made.let_go();
    }

    /// Kills it (SIGKILL), and waits for its end: until then its parent does not see that.
    pub fn kill(mut self) {
        if !self.ended {
            // SAFETY: takes numbers. The task was not yet waited for, so its number is still its own.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
        }
        while !self.ended {
            self.wait();
        }
    }

    /// Lets it run on, untraced.
    ///
    /// # Panics
    /// If it has ended.
    pub fn let_go(self) {
        self.request(libc::PTRACE_DETACH, 0, self.signal.cast_unsigned() as usize);
    }

    fn go(&mut self, how: libc::c_uint) -> Stop {
        let signal = std::mem::take(&mut self.signal);
        // It may have been killed: then the wait says so.
        self.try_request(how, 0, signal.cast_unsigned() as usize);
        self.wait()
    }

    fn wait(&mut self) -> Stop {
        let mut status = 0;
        // SAFETY: writes the status, a place of this function's.
        let waited = unsafe { libc::waitpid(self.pid, &raw mut status, libc::__WALL) };
        if waited != self.pid || !libc::WIFSTOPPED(status) {
            self.ended = true;
            return Stop::Ended;
        }
        match (libc::WSTOPSIG(status), status >> 16) {
            (signal, 0) if signal == libc::SIGTRAP | 0x80 => {
                self.call().map_or(Stop::After, Stop::Before)
            }
            (libc::SIGTRAP, libc::PTRACE_EVENT_CLONE) => Stop::Made(self.made()),
            (libc::SIGTRAP, 0) | (_, libc::PTRACE_EVENT_STOP) => Stop::Between,
            (signal, _) => {
                self.signal = signal;
                Stop::Between
            }
        }
    }

    /// The system call that it is about to make, if it is.
    fn call(&self) -> Option<Call> {
        let mut info = std::mem::MaybeUninit::<libc::ptrace_syscall_info>::zeroed();
        let length = size_of::<libc::ptrace_syscall_info>();
        let place: *mut c_void = info.as_mut_ptr().cast();
        self.request(libc::PTRACE_GET_SYSCALL_INFO, length, place.expose_provenance());
        // SAFETY: all zeroes, or written by the kernel, either of which is a valid value.
        let info = unsafe { info.assume_init() };
        (info.op == libc::PTRACE_SYSCALL_INFO_ENTRY).then(|| {
            // SAFETY: this is the part that the kernel wrote for an entry.
            let entry = unsafe { info.u.entry };
            Call { number: entry.nr.cast_signed(), arguments: entry.args }
        })
    }

    /// The task that it has just made.
    fn made(&self) -> i32 {
        let mut number = 0_u64;
        let place = (&raw mut number).expose_provenance();
        self.request(libc::PTRACE_GETEVENTMSG, 0, place);
        i32::try_from(number).expect("a number of a task")
    }

    fn request(&self, what: libc::c_uint, address: usize, data: usize) {
        let done = self.try_request(what, address, data);
        assert!(done, "ptrace({what:#x}) of {}: {}", self.pid, std::io::Error::last_os_error());
    }

    fn try_request(&self, what: libc::c_uint, address: usize, data: usize) -> bool {
        // SAFETY: what the kernel writes in this process goes to places that the callers have made for
        // it; what it does to the tracee is for the test to know.
        unsafe { libc::ptrace(what, self.pid, address, data) != -1 }
    }
}
