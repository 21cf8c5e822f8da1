//! The report files of `snowboot test`: the runner writes them. Of a test that cannot be handed to it, this program does,
//! with the same code.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use snowboot_driver::RunError;
use snowboot_driver::sinks::{self, Troubles, Wanted};

/// Names the file of the XML log, for the NixOS test driver and for the runner.
const XML_VARIABLE: &str = "LOGFILE";

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Reports")]
pub(crate) struct ReportArgs {
    /// Write the result to FILE, as one JSON object
    #[arg(long, value_name = "FILE")]
    pub(crate) json_report: Option<PathBuf>,
    /// Write JUnit XML to FILE, a path that counts from the output folder
    #[arg(long, value_name = "FILE")]
    junit_xml: Option<PathBuf>,
    /// Write one HTML page to FILE: timeline, log and consoles
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write every event to FILE as it happens, as a line of JSON
    #[arg(long, value_name = "FILE")]
    json_log: Option<PathBuf>,
    /// Write the log to FILE as XML [default: the file that LOGFILE names]
    #[arg(long, value_name = "FILE")]
    xml_log: Option<PathBuf>,
    /// Write NAME-console.log of every machine to the output folder
    #[arg(long)]
    console_logs: bool,
    /// Write all frames of each network to NAME.pcapng in DIR [default: the output folder]
    #[arg(long, value_name = "DIR", num_args = 0..=1, require_equals = true, default_missing_value = ".")]
    pcap: Option<PathBuf>,
    /// Show elapsed time where the log goes to no terminal, too
    #[arg(long)]
    log_times: bool,
}

impl ReportArgs {
    /// Gives them to the runner, with absolute paths. `--json-report` is not among them.
    pub(crate) fn hand_over(&self, output: &Path, command: &mut Command) -> Result<()> {
        let junit = self.junit_xml.as_ref().map(|path| output.join(path));
        let files = [
            ("--junit-xml", junit.as_ref()),
            ("--html", self.html.as_ref()),
            ("--json-log", self.json_log.as_ref()),
            ("--xml-log", self.xml_log.as_ref()),
        ];
        for (option, path) in files {
            if let Some(path) = path {
                let absolute = std::path::absolute(path)
                    .with_context(|| format!("Cannot tell where {} is", path.display()))?;
                command.arg(option).arg(absolute);
            }
        }
        if self.console_logs {
            command.arg("--console-logs");
        }
        if let Some(folder) = &self.pcap {
            let mut option = std::ffi::OsString::from("--pcap=");
            let folder = output.join(folder);
            let absolute = std::path::absolute(&folder)
                .with_context(|| format!("Cannot tell where {} is", folder.display()))?;
            option.push(absolute);
            command.arg(option);
        }
        if self.log_times {
            command.arg("--log-times");
        }
        Ok(())
    }

    /// Writes those that can be written: the test did not start, and why.
    pub(crate) fn not_started(&self, output: &Path, status: u8, error: RunError) {
        let variable = || env::var_os(XML_VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
        let wanted = Wanted {
            junit: self.junit_xml.as_ref().map(|path| output.join(path)),
            html: self.html.clone(),
            json: self.json_log.clone(),
            xml: self.xml_log.clone().or_else(variable),
            consoles: None,
        };
        // What hindered the test is what the user has to hear of first.
        sinks::not_started(wanted.open_possible(&Troubles::default()), status.into(), error);
    }
}
