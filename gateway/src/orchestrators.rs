//! The orchestrators behind a façade: any of them, the one with the most room, or the one that has a run.

use talaria_proto::v1::FindRunRequest;
use talaria_proto::v1::run_service_client::RunServiceClient;
use talaria_proto::v1::store_service_client::StoreServiceClient;
use talaria_runtime::link::{Link, MAX_MESSAGE_BYTES, Replicas};
use tonic::Status;

use crate::follow::in_time;

/// What calls an orchestrator.
pub type Runs = RunServiceClient<Link>;

/// All orchestrators. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Orchestrators(Replicas);

impl Orchestrators {
    pub fn new(replicas: Replicas) -> Self {
        Self(replicas)
    }

    /// Whichever answers.
    pub fn any(&self) -> Runs {
        client(self.0.link())
    }

    /// Those that answer, the least busy first; whichever comes to answer, if none does.
    pub fn each(&self) -> Vec<Runs> {
        self.or_any(self.0.each())
    }

    /// The same, once it was found out which answer.
    pub async fn each_known(&self) -> Vec<Runs> {
        self.or_any(self.0.each_known().await)
    }

    fn or_any(&self, links: Vec<Link>) -> Vec<Runs> {
        if links.is_empty() {
            return vec![self.any()];
        }
        links.into_iter().map(client).collect()
    }

    /// The one that executes a run; none where nobody does, at this moment.
    pub async fn owner(
        &self,
        store: &mut StoreServiceClient<Link>,
        tenant: &str,
        response_id: &str,
    ) -> Result<Option<Runs>, Status> {
        if self.0.is_local() {
            return Ok(Some(self.any()));
        }
        let request = FindRunRequest {
            tenant: tenant.to_owned(),
            response_id: response_id.to_owned(),
        };
        let found = in_time(store.find_run(request)).await?.into_inner();
        Ok(self.0.at(&found.owner_address).map(client))
    }
}

fn client(link: Link) -> Runs {
    RunServiceClient::new(link)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}
