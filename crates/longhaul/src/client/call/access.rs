//! The calls about tokens and shared runs.

use std::time::Duration;

use longhaul_api::{ShareReply, ShareRequest, TokenInfo, TokenList, TokenRequest};
use longhaul_model::{ProjectId, RunId};
use reqwest::Method;
use serde_json::Value;

use super::{CALL_TIMEOUT, Client, ClientError};

impl Client {
    /// Makes a token; only this answer has its text.
    pub async fn create_token(&self, request: &TokenRequest) -> Result<TokenInfo, ClientError> {
        let call = self.request(Method::POST, "/v1/tokens", &[]).timeout(CALL_TIMEOUT).json(request);
        self.decode(self.send(call).await?).await
    }

    /// All tokens and shares.
    pub async fn tokens(&self) -> Result<TokenList, ClientError> {
        self.get("/v1/tokens", &[], Duration::ZERO).await
    }

    /// Ends a token.
    pub async fn revoke_token(&self, id: &str) -> Result<Value, ClientError> {
        let call = self.request(Method::DELETE, &format!("/v1/tokens/{id}"), &[]).timeout(CALL_TIMEOUT);
        self.decode(self.send(call).await?).await
    }

    /// Makes an address that shows a run for a while.
    pub async fn share(
        &self,
        project: &ProjectId,
        run: &RunId,
        request: &ShareRequest,
    ) -> Result<ShareReply, ClientError> {
        let pairs = [("project", project.to_string())];
        let call = self.request(Method::POST, &format!("/v1/runs/{run}/share"), &pairs);
        self.decode(self.send(call.timeout(CALL_TIMEOUT).json(request)).await?).await
    }
}
