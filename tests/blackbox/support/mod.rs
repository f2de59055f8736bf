//! What the tests are made of: the gateway as a process, fakes of the outside world, and faults.

pub mod control_socket;
pub mod faults;
pub mod gateway;
pub mod homeassistant;
pub mod homeassistant_server;
pub mod html;
pub mod http;
pub mod model;
pub mod model_check;
pub mod model_stream;
pub mod namespace;
pub mod params;
pub mod poll;
pub mod process;
pub mod telegram;
pub mod telegram_methods;
pub mod websocket;
pub mod weixin;
pub mod weixin_calls;
