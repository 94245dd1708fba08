//! Compiles the protocol without `protoc`: one pass gives the Rust types, the client's stub and the
//! descriptor set that reflection serves, another one the server's stub.

use prost::Message as _;
use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let proto = "proto/synchromesh/v1/task_service.proto";
    println!("cargo::rerun-if-changed={proto}");
    let mut descriptors = protox::compile([proto], ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("synchromesh.v1.fds"), descriptors.encode_to_vec())?;
    let name = |function| format!("#[serde(serialize_with = \"crate::proto::{function}\")]");
    tonic_prost_build::configure()
        .message_attribute(".", "#[derive(serde::Serialize)]")
        .enum_attribute("Event.kind", "#[derive(serde::Serialize)]")
        .enum_attribute("Event.kind", "#[serde(rename_all = \"snake_case\")]")
        .field_attribute("Event.kind", "#[serde(flatten)]")
        .field_attribute("SwitchTaskResponse.outcome", name("outcome_name"))
        .field_attribute("GetStatusResponse.state", name("state_name"))
        .field_attribute("DaemonChanged.state", name("state_name"))
        .field_attribute("CellRun.state", name("slot_state_name"))
        .build_server(false)
        .compile_fds(descriptors.clone())?;

    // However many watch, an event is encoded once: the server is given encoded events.
    let services = descriptors.file.iter_mut().flat_map(|file| &mut file.service);
    for method in services.flat_map(|service| &mut service.method) {
        if method.name() == "WatchEvents" {
            method.output_type = Some(".synchromesh.v1.EncodedEvents".into());
        }
    }
    let server = out.join("server");
    fs::create_dir_all(&server)?;
    tonic_prost_build::configure()
        .build_client(false)
        .out_dir(server)
        .extern_path(".synchromesh.v1", "crate::proto")
        .compile_fds(descriptors)?;
    Ok(())
}
