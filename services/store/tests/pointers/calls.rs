//! The store's service, called as an orchestrator calls it.

use talaria_domain::ids::{ConversationId, ResponseId};
use talaria_domain::model::{Field, ItemKey, ModelEvent};
use talaria_domain::run as domain;
use talaria_proto::v1::{
    AdmitRunRequest, AppendEventsRequest, EventChunk, FinishRunRequest, LoadContextRequest,
    LoadContextResponse, RequestCancelRequest, Response, ResponseError, RunRequest, Status, Turn,
    Wait,
};
use talaria_runtime::ids;
use tonic::Status as GrpcStatus;

use super::{TENANT, World, Writer, name_of};
use crate::model::{End, Run};

impl World {
    pub(super) async fn load(
        &mut self,
        conversation: usize,
        may_wait: bool,
    ) -> Result<LoadContextResponse, GrpcStatus> {
        let request = LoadContextRequest {
            tenant: TENANT.into(),
            conversation: Some(self.names[conversation].clone()),
            may_wait,
            ..Default::default()
        };
        Ok(self.client.load_context(request).await?.into_inner())
    }

    pub(super) async fn admit(
        &mut self,
        conversation: usize,
        context: &LoadContextResponse,
        wait: Wait,
    ) -> anyhow::Result<()> {
        let id = ids::new_id();
        let status = match wait {
            Wait::Not => Status::InProgress,
            Wait::InLine | Wait::Interrupting => Status::Queued,
        };
        let mut response = Response {
            id: ResponseId(id).to_string(),
            ..Default::default()
        };
        response.set_status(status);
        let mut run = domain::Run::create(id, response);
        let events = run.take_events();
        let is_new = context.conversation_id.is_none();
        let new_conversation = || ConversationId(ids::new_id()).to_string();
        let request = AdmitRunRequest {
            tenant: TENANT.into(),
            response_id: ResponseId(id).to_string(),
            owner: self.owner.to_string(),
            status: status.into(),
            request: Some(RunRequest::default()),
            event_count: u32::try_from(events.len())?,
            events: Some(EventChunk::of(&events)),
            parent_response_id: context.parent_response_id.clone(),
            conversation_id: Some(
                context
                    .conversation_id
                    .clone()
                    .unwrap_or_else(new_conversation),
            ),
            conversation_name: is_new.then(|| self.names[conversation].clone()),
            wait: wait.into(),
            ..Default::default()
        };
        let epoch = self.client.admit_run(request).await?.into_inner().epoch;
        self.writers.push(Writer { run, epoch });
        match wait {
            Wait::Not => self.model.begin(id, conversation),
            Wait::InLine => self.model.wait(id, conversation, false),
            Wait::Interrupting => self.model.wait(id, conversation, true),
        };
        Ok(())
    }

    /// Says its name and ends.
    pub(super) async fn finish(&mut self, number: usize, end: End) -> Result<(), GrpcStatus> {
        let Writer { run, epoch } = &mut self.writers[number];
        run.on_model(ModelEvent::Delta {
            key: ItemKey(0),
            field: Field::Text,
            part: 0,
            delta: Run::name(number),
            logprobs: Vec::new(),
        });
        run.on_model_end();
        let end = match end {
            End::Completed => domain::End::Completed,
            End::Failed => domain::End::Failed(ResponseError::default()),
            End::Cancelled => domain::End::Cancelled,
        };
        run.finish(&end, 5);
        let events = run.take_events();
        let append = AppendEventsRequest {
            response_id: name_of(&self.model.runs[number]),
            epoch: *epoch,
            first_sequence_number: events[0].sequence_number,
            event_count: u32::try_from(events.len()).unwrap_or(u32::MAX),
            events: Some(EventChunk::of(&events)),
            after_silence: false,
        };
        let request = FinishRunRequest {
            append: Some(append),
            response: Some(run.snapshot().response()),
            turn: Some(Turn {
                input: Vec::new(),
                output: run.output(),
            }),
            admission: None,
        };
        self.client.finish_run(request).await.map(drop)
    }

    pub(super) async fn request_cancel(&mut self, number: usize) -> anyhow::Result<()> {
        let request = RequestCancelRequest {
            tenant: TENANT.into(),
            response_id: name_of(&self.model.runs[number]),
        };
        self.client.request_cancel(request).await?;
        self.model.runs[number].cancel_requested = true;
        Ok(())
    }
}
