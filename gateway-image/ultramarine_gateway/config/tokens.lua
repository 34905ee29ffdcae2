-- Counts the tokens of OpenAI-style answers while they pass, without holding any part of an answer back. The counts go
-- into the request's metadata, from which the rate limit filter reports them to the agent at the request's end.
local PIECE, USAGE, LINE, MOST = 16384, 2048, 65536, 1e9

-- Return the last `usage` object. A quotation mark inside a JSON string is escaped, so no text of a model looks like it.
local function usage_in(text)
  local last
  if not text:find('"usage"', 1, true) then return end
  for usage in text:gmatch('[{,]%s*"usage"%s*:%s*(%b{})') do last = usage end
  return last
end

local function number(usage, chat, responses)
  local digits = usage:match('"' .. chat .. '"%s*:%s*(%d+)') or usage:match('"' .. responses .. '"%s*:%s*(%d+)')
  return digits and math.min(tonumber(digits), MOST)
end

-- Envoy's objects are valid until the script waits for the next chunk, so the metadata is fetched again every time.
local function set(handle, direction, tokens)
  if tokens then handle:streamInfo():dynamicMetadata():set("ultramarine", direction, tokens) end
end

local function save(handle, usage)
  set(handle, "prompt", number(usage, "prompt_tokens", "input_tokens"))
  set(handle, "completion", number(usage, "completion_tokens", "output_tokens"))
  return true
end

-- True if an event has a piece of an answer: of the text, the reasoning or a tool's arguments.
local function has_text(line)
  return line:find('"[%a_]*content"%s*:%s*"[^"]') or line:find('"text"%s*:%s*"[^"]')
    or line:find('"arguments"%s*:%s*"[^"]') or line:find('"delta"%s*:%s*"[^"]')
end

-- A client may ask for anything after the usage, and leave before the end: so all of an answer is read, and the last
-- usage of at most USAGE bytes is saved at once.
local function count_json(handle)
  local rest = ""
  for chunk in handle:bodyChunks() do
    local length = chunk:length()
    for from = 0, length - 1, PIECE do
      local text = rest .. chunk:getBytes(from, math.min(PIECE, length - from))
      local usage = usage_in(text)
      if usage then save(handle, usage) end
      rest = text:sub(-USAGE)
    end
  end
end

local function count_events(handle)
  local rest, pieces, exact = "", 0, false
  local function read(line)
    local usage = usage_in(line)
    if usage then
      exact = save(handle, usage)
    elseif line:sub(1, 5) == "data:" and has_text(line) then
      pieces = pieces + 1
    end
  end
  for chunk in handle:bodyChunks() do
    local text, from, before = rest .. chunk:getBytes(0, chunk:length()), 1, pieces
    local stop = text:find("\n", 1, true)
    while stop do
      read(text:sub(from, stop - 1))
      from = stop + 1
      stop = text:find("\n", from, true)
    end
    rest = text:sub(from)
    if #rest > LINE then
      local usage = usage_in(rest)
      if usage then exact = save(handle, usage) end
      rest = "data:" .. rest:sub(-LINE)
    end
    -- After every chunk, since the script learns nothing of a stream that is cut.
    if pieces > before and not exact then set(handle, "completion", pieces) end
  end
  read(rest)
end

function envoy_on_request(handle)
  handle:headers():replace("accept-encoding", "identity")
  set(handle, "prompt", 0)
  set(handle, "completion", 0)
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local kind = (headers:get("content-type") or ""):lower()
  local encoding = headers:get("content-encoding") or "identity"
  if headers:get(":status") ~= "200" or encoding ~= "identity" then return end
  if kind:find("^text/event%-stream") then
    count_events(handle)
  elseif kind:find("^application/json") then
    count_json(handle)
  end
end
