-- Asks for what the environment says, on and on, each connection after a pause, of about so long.
local path, token = os.getenv("FLOOD_PATH"), os.getenv("FLOOD_TOKEN")
local pause_milliseconds = tonumber(os.getenv("FLOOD_PAUSE_MILLISECONDS"))

function request()
  return wrk.format("GET", path, { ["Authorization"] = "Bearer " .. token })
end

function delay()
  return math.random(0, 2 * pause_milliseconds)
end
