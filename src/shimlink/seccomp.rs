//! Compiled seccomp filters, kept by what they were compiled from.

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::AsyncWriteExt;
use tokio::sync::OnceCell;

use super::Shims;
use super::error::ShimError;

const MODE: &str = "seccomp";
/// Usual are 25 ms.
const LIMIT: Duration = Duration::from_secs(30);
/// Profiles that are kept. A node has a handful.
const KEPT: usize = 64;

/// A filter as create and exec load it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeccompFilter {
    /// An array of `struct sock_filter`.
    pub program: Arc<[u8]>,
    /// Of seccomp(2) `SECCOMP_SET_MODE_FILTER`.
    pub flags: u32,
}

/// By the request that made them.
pub(super) type Filters = HashMap<String, Arc<OnceCell<SeccompFilter>>>;

impl Shims {
    /// Compiles a seccomp profile (OCI `LinuxSeccomp` as JSON, with the
    /// `includes` and `excludes` of rules that default profiles have) for a
    /// container with these capabilities ("CAP_CHOWN"). Compiled once; callers
    /// that ask for the same at the same time share one run.
    ///
    /// # Errors
    /// What is wrong with the profile.
    pub async fn compile_seccomp(
        &self,
        profile_json: &str,
        capabilities: &[String],
    ) -> Result<SeccompFilter, ShimError> {
        let profile: serde_json::Value =
            serde_json::from_str(profile_json).map_err(ShimError::Profile)?;
        let flags = flags(&profile)?;
        let mut sorted = capabilities.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        let request = serde_json::json!({"profile": profile, "capabilities": sorted}).to_string();
        let cell = {
            let mut kept = self.filters.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() >= KEPT && !kept.contains_key(&request) {
                // Those who wait for one hold it themselves.
                kept.clear();
            }
            Arc::clone(kept.entry(request.clone()).or_default())
        };
        let filter = cell.get_or_try_init(|| async {
            let program = self.run_seccomp(request).await?;
            Ok::<_, ShimError>(SeccompFilter {
                program: program.into(),
                flags,
            })
        });
        filter.await.cloned()
    }

    async fn run_seccomp(&self, request: String) -> Result<Vec<u8>, ShimError> {
        let fail = |what: &str| {
            let operation = format!("{what} longshore-shim {MODE}");
            move |source| ShimError::system(operation, source)
        };
        let mut command = self.binary.command(None);
        command.arg(MODE);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .spawn()
            .map_err(fail("start"))?;
        let stdin = child.stdin.take();
        let write = async {
            if let Some(mut stdin) = stdin {
                // A program that fails before it reads says why on stderr.
                stdin.write_all(request.as_bytes()).await.ok();
            }
        };
        let run = async { tokio::join!(write, child.wait_with_output()).1 };
        let output = tokio::time::timeout(LIMIT, run)
            .await
            .map_err(|_| ShimError::Slow {
                mode: MODE,
                limit: LIMIT,
            })?
            .map_err(fail("wait for"))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let message = match said.trim() {
            "" => output.status.to_string(),
            said => said.replace('\n', " "),
        };
        Err(ShimError::Mode {
            mode: MODE,
            message,
            errno: 0,
        })
    }
}

/// Flags of seccomp(2) by their OCI names. A profile that names none gets
/// SPEC_ALLOW: without it older kernels slow every filtered process down.
fn flags(profile: &serde_json::Value) -> Result<u32, ShimError> {
    #[derive(Deserialize)]
    enum Flag {
        #[serde(rename = "SECCOMP_FILTER_FLAG_TSYNC")]
        Tsync = 1,
        #[serde(rename = "SECCOMP_FILTER_FLAG_LOG")]
        Log = 1 << 1,
        #[serde(rename = "SECCOMP_FILTER_FLAG_SPEC_ALLOW")]
        SpecAllow = 1 << 2,
        #[serde(rename = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV")]
        WaitKillableRecv = 1 << 5,
    }
    let Some(named) = profile.get("flags").filter(|flags| !flags.is_null()) else {
        return Ok(Flag::SpecAllow as u32);
    };
    let named = Vec::<Flag>::deserialize(named).map_err(ShimError::Profile)?;
    // WAIT_KILLABLE_RECV is for filters with a listener, which there are none of.
    let usable = named
        .into_iter()
        .filter(|flag| !matches!(flag, Flag::WaitKillableRecv));
    Ok(usable.fold(0, |all, flag| all | flag as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_by_name() {
        let of = |json: &str| flags(&serde_json::from_str(json).unwrap());
        assert_eq!(of("{}").unwrap(), 4);
        assert_eq!(of(r#"{"flags":null}"#).unwrap(), 4);
        assert_eq!(of(r#"{"flags":[]}"#).unwrap(), 0);
        let log = r#"{"flags":["SECCOMP_FILTER_FLAG_LOG","SECCOMP_FILTER_FLAG_TSYNC"]}"#;
        assert_eq!(of(log).unwrap(), 3);
        assert!(of(r#"{"flags":["SECCOMP_FILTER_FLAG_NEW_LISTENER"]}"#).is_err());
    }
}
