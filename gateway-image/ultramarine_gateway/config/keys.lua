-- Refuses a request without a key of the endpoint, and writes the name of the key into the request's metadata. The
-- route has the SHA-256 of each key, in hex, as `primary` and `secondary`. Envoy's own filter for keys would need the
-- keys themselves, and is marked as work in progress.
local band, bnot, bxor, ror, rshift = bit.band, bit.bnot, bit.bxor, bit.ror, bit.rshift
local tobit, tohex = bit.tobit, bit.tohex

-- FIPS 180-4, 4.2.2: the first 32 bits of the fractions of the cube roots of the first 64 primes.
local K, number = {}, 2
while #K < 64 do
  local prime = true
  for divisor = 2, math.floor(math.sqrt(number)) do prime = prime and number % divisor ~= 0 end
  if prime then K[#K + 1] = tobit(math.floor(number ^ (1 / 3) % 1 * 2 ^ 32)) end
  number = number + 1
end

local W = {}

local function sha256(text)
  local bits = #text * 8
  local length = string.char(band(rshift(bits, 24), 255), band(rshift(bits, 16), 255), band(rshift(bits, 8), 255), band(bits, 255))
  text = text .. "\128" .. string.rep("\0", (55 - #text) % 64) .. "\0\0\0\0" .. length
  local A, B, C, D = 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a
  local E, F, G, H = 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19
  for block = 1, #text, 64 do
    for i = 1, 16 do
      local w, x, y, z = text:byte(block + i * 4 - 4, block + i * 4 - 1)
      W[i] = tobit(w * 0x1000000 + x * 0x10000 + y * 0x100 + z)
    end
    for i = 17, 64 do
      local x, y = W[i - 15], W[i - 2]
      local low, high = bxor(ror(x, 7), ror(x, 18), rshift(x, 3)), bxor(ror(y, 17), ror(y, 19), rshift(y, 10))
      W[i] = tobit(W[i - 16] + low + W[i - 7] + high)
    end
    local a, b, c, d, e, f, g, h = A, B, C, D, E, F, G, H
    for i = 1, 64 do
      local s = bxor(ror(e, 6), ror(e, 11), ror(e, 25)) + bxor(band(e, f), band(bnot(e), g))
      local first = tobit(h + s + K[i] + W[i])
      local second = bxor(ror(a, 2), ror(a, 13), ror(a, 22)) + bxor(band(a, b), band(a, c), band(b, c))
      h, g, f, e, d, c, b, a = g, f, e, tobit(d + first), c, b, a, tobit(first + second)
    end
    A, B, C, D = tobit(A + a), tobit(B + b), tobit(C + c), tobit(D + d)
    E, F, G, H = tobit(E + e), tobit(F + f), tobit(G + g), tobit(H + h)
  end
  return tohex(A) .. tohex(B) .. tohex(C) .. tohex(D) .. tohex(E) .. tohex(F) .. tohex(G) .. tohex(H)
end

-- Every pair of digests is compared to its end, so that the time reveals neither a key's beginning nor its name.
local function same(first, second)
  local difference = 0
  for i = 1, 64 do difference = bit.bor(difference, bxor(first:byte(i), second:byte(i))) end
  return difference == 0
end

function envoy_on_request(handle)
  local headers, digests = handle:headers(), handle:filterContext()
  local offered = {headers:get("api-key") or "", (headers:get("authorization") or ""):match("^[Bb][Ee][Aa][Rr][Ee][Rr] +(.-) *$") or ""}
  local opens
  for _, key in ipairs(offered) do
    -- A key is never longer, and hashing a long text would take long.
    if key ~= "" and #key <= 512 then
      local digest = sha256(key)
      for _, name in ipairs({"primary", "secondary"}) do
        if digests:get(name) and same(digest, digests:get(name)) then opens = name end
      end
    end
  end
  if opens then
    handle:streamInfo():dynamicMetadata():set("ultramarine", "key", opens)
  else
    handle:respond({[":status"] = "401", ["www-authenticate"] = "Bearer"},
      "a key of this endpoint is needed, as Authorization: Bearer KEY or api-key: KEY")
  end
end
