//! nginx: HTTP/1 only. One process, without the master, so that all it does is counted in one place.

use super::{Running, Site, installed, single};
use crate::case::{Case, Contender};
use crate::failure::Failure;
use crate::process::free_address;
use std::process::Command;

pub(super) async fn start(site: &Site<'_>) -> Result<Running, Failure> {
    let (entry, app) = (free_address()?, site.target(Case::Http1));
    let dir = site.dir.display();
    let config = format!(
        "daemon off;
master_process off;
worker_processes 1;
pid {dir}/pid;
error_log stderr warn;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
  keepalive_timeout 1h; keepalive_requests 1000000000;
  upstream app {{
    server {app};
    keepalive 1024; keepalive_timeout 1h; keepalive_requests 1000000000;
  }}
  server {{
    listen {entry};
    location / {{
      proxy_pass http://app;
      proxy_http_version 1.1;
      proxy_set_header Connection \"\";
      proxy_set_header Host $host;
    }}
  }}
}}
"
    );
    let path = site.write("nginx.conf", &config)?;
    let mut command = Command::new(installed(&site.programs.nginx, Contender::Nginx)?);
    command.arg("-c").arg(path).arg("-p").arg(&site.dir);
    single(site, Contender::Nginx, entry, &mut command).await
}
