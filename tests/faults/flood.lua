-- Asks for what the environment says, on and on, each connection after a pause; prints how many were answered what.
local path, token = os.getenv("FLOOD_PATH"), os.getenv("FLOOD_TOKEN")
local pause_milliseconds = tonumber(os.getenv("FLOOD_PAUSE_MILLISECONDS"))

function request()
  return wrk.format("GET", path, { ["Authorization"] = "Bearer " .. token })
end

function delay()
  return pause_milliseconds
end
